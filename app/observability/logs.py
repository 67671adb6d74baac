"""Logging: one line of JSON per event, from any library, without any request input."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

import orjson
import structlog
from asgi_correlation_id import correlation_id
from opentelemetry import trace
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper, add_log_level
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, WrappedLogger

from app.observability.log_stream import LogStream

STREAM = LogStream(2)
ROOT = Path(__file__).parents[2]
MAX_FRAMES = 30
MAX_CAUSES = 4


def request_logger(level: str) -> FilteringBoundLogger:
    """The logger for access-log lines, which supply their own `time`; it writes directly to stderr,
    bypassing the standard library's loggers.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(STREAM),  # type: ignore[arg-type]
        processors=[
            add_log_level,
            _ordered,
            JSONRenderer(serializer=partial(orjson.dumps, option=orjson.OPT_UTC_Z)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    ).bind()
    return logger


def config(level: str) -> dict[str, Any]:
    """A `logging.config.dictConfig` that gives the standard library's loggers the same format."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.JSONFormatter"}},
        "filters": {"upgrades": {"()": f"{__name__}.WithoutUpgrades"}},
        "handlers": {
            "stderr": {"class": f"{__name__}.Handler", "formatter": "json"},
        },
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            "uvicorn.error": {"filters": ["upgrades"]},
            # It warns about every request whose ID is replaced.
            "asgi_correlation_id": {"level": "ERROR"},
        },
    }


class Handler(logging.StreamHandler[LogStream]):
    """Writes to the log stream, and drains it when logging shuts down."""

    def __init__(self) -> None:
        super().__init__(STREAM)

    def close(self) -> None:
        STREAM.drain()
        super().close()


class WithoutUpgrades(logging.Filter):
    """Drops uvicorn's warnings about WebSocket requests, which the access log already covers."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Unsupported upgrade", "No supported WebSocket"))


class JSONFormatter(ProcessorFormatter):
    """Formats `logging` records as JSON, with tracebacks as a field and line breaks escaped."""

    def __init__(self) -> None:
        super().__init__(
            processors=[
                add_logger_name,
                ExtraAdder(("request_id", "client")),
                ProcessorFormatter.remove_processors_meta,
                add_log_level,
                TimeStamper(fmt="iso", utc=True, key="time"),
                _without_values,
                _traced,
                ExceptionRenderer(_told),
                _ordered,
                JSONRenderer(separators=(",", ":")),
            ]
        )


def trace_id() -> str | None:
    """The current trace ID, 32 hexadecimal digits, or None without a trace."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _ordered(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {"time": event["time"], "level": event["level"], "event": event["event"], **event}


def _without_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # After the first line, asyncio logs the repr of objects, which may contain anything.
    if event["logger"] == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    event.pop("stack_info", None)
    event["event"] = event["event"].rstrip()
    return event


def _traced(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    found = {"request_id": correlation_id.get(), "trace_id": trace_id()}
    return {**event, **{key: value for key, value in found.items() if value}}


def _told(exc_info: ExcInfo) -> list[dict[str, Any]]:
    """The exception and its causes: types and frames, but no messages, which may contain input."""
    return [
        {"type": f"{type(error).__module__}.{type(error).__qualname__}", "frames": _frames(error)}
        for error in _chain(exc_info[1])
    ]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield error
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)


def _frames(error: BaseException) -> list[str]:
    """`file:line function` per frame, innermost last."""
    return [
        f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ][-MAX_FRAMES:]


def _short(file: str) -> str:
    return file.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
