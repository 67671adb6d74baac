"""The service's settings: environment variables `LAMINA_*`, read once at startup."""

import difflib
import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.limits import BodyLimits, Limits, QueueLimits, RequestLimits, ResultLimits

PREFIX = "LAMINA_"
MIB = 1 << 20
PIB = 1 << 50
DAY_MS = 86_400_000
MANY = 1 << 30
"""An upper bound beyond any sensible value."""
LAST_WORDS_MS = 1000
"""The least time to shut down after the last request was accepted."""
MIN_KEY = 16
KEY = re.compile(r"[!-~]*")
SECRET = frozenset(("api_keys",))
"""Settings whose values appear in no message."""
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")

SERVICE_LINK = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*|PORT=(tcp|udp|sctp)://.*)"
)
"""The variables that Kubernetes sets for a Service whose name starts with `lamina`."""


class SettingsError(ValueError):
    """An invalid setting: one line with its name, its value and what is allowed."""


class Settings(BaseSettings):
    """Where the service listens, what it runs on, and its limits."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on (`0.0.0.0` in the container image)."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    workers: int = Field(1, ge=1, le=256)
    """Number of worker processes."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` (CUDA if available, else the CPU), `cpu`, `cuda` or `cuda:1`."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Torch threads per process; by default the cgroup's CPU quota divided by the workers."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated API keys; requests send one as `Authorization: Bearer KEY`."""
    api_keys_file: Path | None = None
    """File with more keys, one per line; blank lines and lines that start with `#` are ignored."""
    max_requests_per_minute: int | None = Field(None, ge=1, le=MANY)
    """Rate limit per key, or per address if there are no keys; unlimited by default."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated addresses and networks whose forwarded headers are trusted."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated allowed origins, or `*`."""
    cors_credentials: bool = False
    """Allow credentials; not with `*`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Log level; `warning` and above disable the access log."""
    docs: bool = True
    """Serve `/docs` and `/openapi.json`."""
    max_json_body_bytes: int = Field(16 * MIB, ge=1024, le=1024 * MIB)
    """Maximum size of a JSON body, bytes."""
    max_binary_body_bytes: int = Field(64 * MIB, ge=1024, le=4096 * MIB)
    """Maximum size of a binary body, bytes."""
    max_output_bytes: int = Field(256 * MIB, ge=1024, le=PIB)
    """Maximum size of a request's result and working memory, bytes."""
    max_cost_ms: int = Field(10_000, ge=1, le=DAY_MS)
    """Maximum estimated compute time of a request, ms."""
    max_rank: int = Field(8, ge=5, le=32)
    """Maximum number of axes of a tensor."""
    max_extent: int = Field(4096, ge=1, le=1 << 20)
    """Maximum kernel size, stride, dilation and padding along one axis, elements."""
    max_batch_requests: int = Field(256, ge=1, le=4096)
    """Maximum number of requests in a batch."""
    max_layers: int = Field(64, ge=1, le=1024)
    """Maximum number of layers in a chain."""
    max_replicas: int = Field(64, ge=1, le=4096)
    """Maximum number of tensors in a list of inputs."""
    request_timeout_ms: int = Field(30_000, ge=1, le=DAY_MS)
    """Deadline of a request, from its arrival, ms."""
    queue_timeout_ms: int = Field(2_000, ge=1, le=DAY_MS)
    """Maximum time a request waits for memory or a turn, ms."""
    max_queued_requests: int = Field(32, ge=0, le=MANY)
    """Maximum queue length for memory and for turns, per process."""
    memory_budget_bytes: int | None = Field(None, ge=16 * MIB, le=PIB)
    """Memory for requests, per process; by default its share of 70 % of the container's."""
    header_timeout_ms: int = Field(10_000, ge=1, le=DAY_MS)
    """Maximum time to receive a request's headers, ms."""
    body_idle_timeout_ms: int = Field(10_000, ge=1, le=DAY_MS)
    """Maximum pause while receiving a body, ms."""
    write_timeout_ms: int = Field(30_000, ge=1, le=DAY_MS)
    """Maximum time for a client to read the next piece of an answer, ms."""
    keep_alive_timeout_ms: int = Field(75_000, ge=1000, le=DAY_MS)
    """How long an idle connection stays open, ms; should exceed that of a proxy in front."""
    max_header_bytes: int = Field(32 * 1024, ge=1024, le=16 * MIB)
    """Maximum size of the request line and headers, bytes."""
    max_header_fields: int = Field(100, ge=8, le=10_000)
    """Maximum number of headers."""
    max_connections: int = Field(4096, ge=1, le=MIB)
    """Maximum number of open connections, per process."""
    drain_delay_ms: int = Field(5_000, ge=0, le=DAY_MS)
    """How long new requests are accepted after SIGTERM, ms."""
    drain_grace_ms: int = Field(40_000, ge=0, le=DAY_MS)
    """Maximum time from SIGTERM to exit, drain delay included, ms."""

    @field_validator("api_keys", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(filter(None, (part.strip() for part in value.split(","))))
        if not parts and info.field_name == "api_keys":
            raise ValueError("contains no key; unset it to run without API keys")
        return parts

    @field_validator("api_keys")
    @classmethod
    def _strong_keys(cls, keys: tuple[SecretStr, ...]) -> object:
        for number, key in enumerate(keys, 1):
            _check_key(f"key {number}", key.get_secret_value())
        return keys

    @field_validator("trusted_proxies")
    @classmethod
    def _narrow_networks(cls, proxies: tuple[str, ...]) -> object:
        for proxy in proxies:
            try:
                wide = ip_network(proxy).prefixlen == 0
            except ValueError:
                raise ValueError("expected IP addresses or networks such as 10.0.0.0/8") from None
            if wide:
                raise ValueError("trusting every address would let any client forge its address")
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _plain_origins(cls, origins: tuple[str, ...]) -> object:
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    "expected origins as browsers send them, scheme://host or scheme://host:port, "
                    "in lower case and without a path or trailing slash, or *"
                )
            if DEFAULT_PORT.fullmatch(origin):
                raise ValueError("omit the scheme's default port, as browsers do")
        return origins

    @model_validator(mode="after")
    def _no_wildcard_with_credentials(self) -> Self:
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError(
                "LAMINA_CORS_CREDENTIALS=true: cannot be combined with LAMINA_CORS_ORIGINS=*; "
                "list the origins"
            )
        return self

    @model_validator(mode="after")
    def _time_to_drain(self) -> Self:
        if self.drain_grace_ms < self.drain_delay_ms + LAST_WORDS_MS:
            raise ValueError(
                f"LAMINA_DRAIN_GRACE_MS={self.drain_grace_ms}: must be at least "
                f"{self.drain_delay_ms + LAST_WORDS_MS}, as it includes "
                f"LAMINA_DRAIN_DELAY_MS={self.drain_delay_ms}"
            )
        return self

    def read_keys(self) -> tuple[str, ...]:
        """The keys in force: those of the variable, then those of the file.

        Raises:
            SettingsError: a file that cannot be read, or holds no key, or one that is too weak.

        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is not None:
            try:
                keys += _keys_of(self.api_keys_file)
            except (OSError, ValueError) as error:
                # The message of a decoding error would repeat bytes of the file.
                said = "not a UTF-8 text file" if isinstance(error, UnicodeError) else str(error)
                said = (error.strerror or said) if isinstance(error, OSError) else said
                name = f"{PREFIX}API_KEYS_FILE={str(self.api_keys_file)!r}"
                raise SettingsError(f"{name}: {said}") from None
        return tuple(dict.fromkeys(keys))

    def holding_keys(self) -> Self:
        """These settings with the file's keys included, for processes that must not read the file.

        Raises:
            SettingsError: as `read_keys`.

        """
        keys = tuple(SecretStr(key) for key in self.read_keys())
        return self.model_copy(update={"api_keys": keys, "api_keys_file": None})

    @property
    def limits(self) -> Limits:
        """The limits that requests keep to, in groups."""
        return Limits(
            BodyLimits(
                self.max_json_body_bytes, self.max_binary_body_bytes, self.body_idle_timeout_ms
            ),
            RequestLimits(
                self.max_rank,
                self.max_extent,
                self.max_replicas,
                self.max_batch_requests,
                self.max_layers,
            ),
            ResultLimits(self.max_output_bytes, self.max_cost_ms),
            QueueLimits(
                self.request_timeout_ms,
                self.queue_timeout_ms,
                self.max_queued_requests,
                self.memory_budget_bytes or 0,
            ),
        )

    @property
    def limits_by_name(self) -> dict[str, int]:
        """Every limit in force, under the names that `/v1/info` shows."""
        return {
            name: value
            for name, value in dict(self).items()
            if name.startswith("max_") or name.endswith(("_ms", "_bytes"))
            if value is not None
        }


def _keys_of(path: Path) -> list[str]:
    """The keys of a file, one per line."""
    lines = (line.strip() for line in path.read_text("utf-8-sig").split("\n"))
    keys = [(n, line) for n, line in enumerate(lines, 1) if line and line[0] != "#"]
    for number, key in keys:
        _check_key(f"line {number}", key)
    if not keys:
        raise ValueError("the file contains no key")
    return [key for _, key in keys]


def _check_key(name: str, key: str) -> None:
    """Raise ValueError, without the key, if it is too short or not valid in a header."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{name}: expected printable ASCII without spaces")
    if len(key) < MIN_KEY:
        raise ValueError(f"{name}: expected at least {MIN_KEY} characters; got {len(key)}")


def load_settings(**flags: object) -> Settings:
    """Settings from the environment; a flag that is not None overrides its variable.

    Raises:
        SettingsError: a value out of range, an unknown variable with our prefix, or keys that
            cannot be read. The message contains no key.

    """
    _check_names()
    try:
        given: dict[str, Any] = {k: v for k, v in flags.items() if v is not None}
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # of several settings, which it names
            raise SettingsError(message) from None
        name = str(first["loc"][0])
        came = "" if name in SECRET else f"={first['input']!r}"
        raise SettingsError(f"{PREFIX}{name.upper()}{came}: {message}") from None
    settings.read_keys()
    return settings


def _check_names() -> None:
    """Raise SettingsError if a variable with our prefix, in any case, is not a setting."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable, value in os.environ.items():
        name = variable.upper()
        if SERVICE_LINK.match(name) or SERVICE_LINK.match(f"{name}={value}"):
            raise SettingsError(
                f"{variable}: set by Kubernetes for a Service whose name starts with 'lamina'; "
                "add 'enableServiceLinks: false' to the pod spec"
            )
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SettingsError(f"{variable}: unknown setting{hint}")
