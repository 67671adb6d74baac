"""Logs: one line of JSON an event, whoever writes it, and nothing of a request's input."""

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
    """The logger of the request lines, which bring their `time`: straight to stderr, past the
    standard library's loggers.
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
    """The standard library's loggers in the same form, as `logging.config.dictConfig` reads it."""
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
            # It warns of every request whose id is replaced.
            "asgi_correlation_id": {"level": "ERROR"},
        },
    }


class Handler(logging.StreamHandler[LogStream]):
    """Writes to the log's stream, and all that is left when logging ends."""

    def __init__(self) -> None:
        super().__init__(STREAM)

    def close(self) -> None:
        STREAM.drain()
        super().close()


class WithoutUpgrades(logging.Filter):
    """Drops uvicorn's two warnings of each request that asks for a WebSocket: it has its line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Unsupported upgrade", "No supported WebSocket"))


class JSONFormatter(ProcessorFormatter):
    """Prints what comes through `logging`: tracebacks as a field, line breaks escaped."""

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
    """The current trace's id, 32 hexadecimal digits."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _ordered(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    return {"time": event["time"], "level": event["level"], "event": event["event"], **event}


def _without_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    # Below the first line asyncio prints objects, whose texts may hold anything.
    if event["logger"] == "asyncio":
        event["event"] = event["event"].partition("\n")[0]
    event.pop("stack_info", None)
    event["event"] = event["event"].rstrip()
    return event


def _traced(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    found = {"request_id": correlation_id.get(), "trace_id": trace_id()}
    return {**event, **{key: value for key, value in found.items() if value}}


def _told(exc_info: ExcInfo) -> list[dict[str, Any]]:
    """The exception, then what caused it: types and places, no messages, which may hold input."""
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
    """`file:line function`, the innermost last."""
    return [
        f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ][-MAX_FRAMES:]


def _short(file: str) -> str:
    return file.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
