"""Every setting of the service: environment variables `LAMINA_*`, read once at the start."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "LAMINA_"
MIB = 1 << 20


class SettingsError(ValueError):
    """A variable that makes no sense: one line with its name, what came and what is allowed."""


class Settings(BaseSettings):
    """Where the service listens, what it runs on, and its limits."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on (`0.0.0.0` in the container image)."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    workers: int = Field(1, ge=1, le=256)
    """Number of processes."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` (CUDA when one is present, else the CPU), `cpu`, `cuda` or `cuda:1`."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Torch's threads in a process; left out: the cgroup's CPU quota divided among the workers."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated keys, one of which `Authorization: Bearer KEY` must carry."""
    api_keys_file: Path | None = None
    """A file of keys, one a line."""
    max_requests_per_minute: int | None = Field(None, ge=1)
    """Most requests of one key, or of one address where there are no keys; left out: no bound."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated addresses and networks whose forwarded headers are believed."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins that browsers may call from, or `*`."""
    cors_credentials: bool = False
    """Whether browsers may send credentials; refused with `*`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged at least; from `warning` on there are no lines of requests."""
    docs: bool = True
    """Whether `/docs` and `/openapi.json` are served."""
    max_json_body_bytes: int = Field(16 * MIB, ge=1024, le=1024 * MIB)
    """Largest JSON body, bytes."""
    max_binary_body_bytes: int = Field(64 * MIB, ge=1024, le=4096 * MIB)
    """Largest binary body, bytes."""
    max_output_bytes: int = Field(256 * MIB, ge=1024)
    """Largest result and working memory of one request, bytes."""
    max_cost_ms: int = Field(10_000, ge=1)
    """Largest estimated computing time of one request, ms."""
    max_rank: int = Field(8, ge=5, le=32)
    """Largest number of axes of a tensor."""
    max_extent: int = Field(4096, ge=1, le=1 << 20)
    """Largest kernel, stride, dilation and padding along one axis, elements."""
    max_replicas: int = Field(64, ge=1, le=4096)
    """Most tensors in a list of inputs."""
    request_timeout_ms: int = Field(30_000, ge=1)
    """Longest time from a request's arrival to its answer, ms."""
    queue_timeout_ms: int = Field(2_000, ge=1)
    """Longest time that a request waits for its turn, ms."""
    max_queued_requests: int = Field(32, ge=0)
    """Most requests that wait for their turn in one process."""
    memory_budget_bytes: int | None = Field(None, ge=16 * MIB)
    """Memory for requests in one process; left out: its share of 70 % of the container's."""
    header_timeout_ms: int = Field(10_000, ge=1)
    """Longest time that a request's headers take to come, ms."""
    body_idle_timeout_ms: int = Field(10_000, ge=1)
    """Longest pause within a body that is coming in, ms."""
    write_timeout_ms: int = Field(30_000, ge=1)
    """Longest time that a client takes to read the next piece of an answer, ms."""
    keep_alive_timeout_ms: int = Field(75_000, ge=1000)
    """How long an idle connection stays open, ms; longer than a proxy in front keeps its own."""
    max_header_bytes: int = Field(32 * 1024, ge=1024)
    """Most bytes of a request's line and headers."""
    max_header_fields: int = Field(100, ge=8)
    """Most headers of a request."""
    max_connections: int = Field(4096, ge=1)
    """Most open connections of one process."""
    drain_delay_ms: int = Field(5_000, ge=0)
    """How long after SIGTERM requests are still taken, ms."""
    drain_grace_ms: int = Field(40_000, ge=0)
    """Longest time from SIGTERM to the exit, ms."""

    @field_validator("api_keys", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_wildcard_with_credentials(self) -> Self:
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError("with LAMINA_CORS_ORIGINS=* it must stay false: name the origins")
        return self

    @property
    def limits(self) -> dict[str, int]:
        """The limits in force, under the names that `/v1/info` shows."""
        return {
            name: value
            for name, value in dict(self).items()
            if name.startswith("max_") or name.endswith(("_ms", "_bytes"))
            if value is not None
        }


def load_settings(**flags: object) -> Settings:
    """Settings from the environment; a flag that is not None wins over its variable.

    Raises:
        SettingsError: a value out of range, or an unknown variable of our prefix.

    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{variable}: there is no such setting{hint}")
    try:
        given: dict[str, Any] = {k: v for k, v in flags.items() if v is not None}
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "cors_credentials"
        message = first["msg"].removeprefix("Value error, ")
        came = "true" if not first["loc"] else repr(first["input"])
        raise SettingsError(f"{PREFIX}{name.upper()}={came}: {message}") from None
