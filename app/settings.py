"""Every setting of the service: environment variables `LAMINA_*`, read once at the start."""

import difflib
import os
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
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
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated origins that browsers may call from, or `*`."""
    cors_credentials: bool = False
    """Whether browsers may send credentials; refused with `*`."""
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
    drain_grace_ms: int = Field(40_000, ge=0)
    """Longest time from SIGTERM to the exit, ms."""

    @field_validator("cors_origins", mode="before")
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
            name: getattr(self, name)
            for name in type(self).model_fields
            if name.startswith(("max_", "drain_"))
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
