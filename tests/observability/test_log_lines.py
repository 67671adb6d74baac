"""How lines of the log are made, in process: faults, the shutdown, labels."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any, Literal, cast

import httpx
import pytest
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from app.layers import LAYERS
from app.main import create_app
from app.observability import access_log
from app.observability.access_log import AccessLog
from app.observability.labels import Labels
from app.observability.log_stream import MAX_KEPT_BYTES, LogStream
from app.observability.logs import JSONFormatter
from app.settings import Settings

CANARY = "canary-5f1c2e"


def told(record: logging.LogRecord) -> dict[str, Any]:
    line = JSONFormatter().format(record)
    assert line.isprintable()
    assert line.isascii()
    found: dict[str, Any] = json.loads(line)
    return found


def record(message: str, error: BaseException | None = None, name: str = "x") -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, None, info)


def failing(value: str) -> None:
    try:
        raise KeyError(value)
    except KeyError as error:
        raise ValueError(f"{value} is wrong") from error


def test_a_traceback_is_a_field_without_values() -> None:
    try:
        failing(CANARY)
    except ValueError as error:
        line = told(record("it\nfailed \x1b[31m\x9b\udcff", error))
    assert line["event"] == "it\nfailed \x1b[31m\x9b\udcff"
    assert (line["level"], line["logger"]) == ("error", "x")
    assert CANARY not in json.dumps(line)
    wrong, cause = line["exception"]
    assert (wrong["type"], cause["type"]) == ("builtins.ValueError", "builtins.KeyError")
    places = [re.sub(r":\d+ ", ": ", frame) for frame in wrong["frames"]]
    name = "tests/observability/test_log_lines.py"
    assert places == [f"{name}: test_a_traceback_is_a_field_without_values", f"{name}: failing"]


def test_what_asyncio_prints_of_objects_is_left_out() -> None:
    message = f"Task exception was never retrieved\nfuture: ValueError({CANARY!r})"
    assert told(record(message, name="asyncio"))["event"] == "Task exception was never retrieved"


@pytest.mark.anyio
@pytest.mark.parametrize("level", ["info", "warning"])
async def test_a_fault_is_an_error_and_a_line(
    capfdbinary: pytest.CaptureFixture[bytes],
    level: Literal["info", "warning"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(tensors: object, plan: object) -> Any:
        raise RuntimeError(CANARY)

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    logger = logging.getLogger("lamina")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "propagate", False)  # to what other tests may have configured
    settings = Settings(device="cpu", log_level=level)
    try:
        app = create_app(settings, {"relu": replace(LAYERS["relu"], run=broken)})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post("/v1/layers/relu", json={"input": [1]})
            await asyncio.sleep(0.1)
    finally:
        logger.removeHandler(handler)
    lines = map(json.loads, capfdbinary.readouterr().err.splitlines())
    fault, *requests = [line for line in lines if line.get("logger") != "httpx"]
    assert answer.status_code == 500
    assert fault["level"] == "error"
    assert fault["request_id"] == answer.json()["request_id"]
    assert CANARY not in json.dumps(fault)
    assert fault["exception"][0]["frames"][-1].endswith(" broken")
    told = [(line["request_id"], line["status"], line["level"]) for line in requests]
    assert told == ([(fault["request_id"], 500, "error")] if level == "info" else [])


class Recorder:
    """A logger that keeps what it is asked to write."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.asked.append(fields)


@pytest.mark.anyio
async def test_lines_are_written_before_the_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(len(recorder.asked))

    monkeypatch.setattr(access_log, "FLUSH_S", 3600)
    recorder, sent = Recorder(), list[int]()
    app = AccessLog(answer, Labels([], []), cast(FilteringBoundLogger, recorder))
    for _ in range(3):
        await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert recorder.asked == []
    await app({"type": "lifespan"}, receive, send)
    assert sent[-1] == 3
    assert [line["response_bytes"] for line in recorder.asked] == [3, 3, 3]


def test_the_paths_of_layers_are_found_without_searching() -> None:
    async def endpoint(request: object) -> None: ...

    labels = Labels([Route("/a/{layer}", endpoint), Route("/b", endpoint)], ["relu", "lp_pool1d"])
    labels._routes.clear()
    assert labels.find("/a/relu") == ("/a/{layer}", "relu")
    assert labels.find("/b") == ("/b", None)
    assert labels.find("/a/other") == ("unmatched", None)


def test_the_command_line_imports_no_torch() -> None:
    code = "import sys, app.server.launch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_taken_in_part_is_written_on(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def write(_: int, data: bytes) -> int:
        taken.append(data[:3])
        return len(taken[-1])

    monkeypatch.setattr(os, "write", write)
    LogStream(2).write(b"0123456789\n")
    assert b"".join(taken) == b"0123456789\n"


def test_a_full_disk_fails_nobody() -> None:
    stream = LogStream(os.open("/dev/full", os.O_WRONLY))
    for _ in range(3):
        stream.write(b"{}\n")
    stream.drain()


def test_what_no_reader_takes_is_kept_then_dropped_and_told() -> None:
    reading, writing = os.pipe()
    stream, line = LogStream(writing), b"x" * 9_999 + b"\n"
    for _ in range(200):
        stream.write(line)
    text = b""
    while b"dropped" not in text:
        text += os.read(reading, 1 << 20)
        stream.flush()
    *lines, told = text.splitlines(keepends=True)
    assert set(lines) == {line}
    assert len(lines) + json.loads(told)["dropped"] == 200
    assert MAX_KEPT_BYTES <= len(text) <= MAX_KEPT_BYTES + (128 << 10)


def test_the_end_waits_for_a_slow_reader() -> None:
    reading, writing = os.pipe()
    stream, found = LogStream(writing), list[bytes]()

    def read() -> None:
        time.sleep(0.2)
        while sum(map(len, found)) < 300_000:
            found.append(os.read(reading, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    stream.write(b"x" * 299_999 + b"\n")
    stream.drain()
    reader.join(10)
    assert not reader.is_alive()
