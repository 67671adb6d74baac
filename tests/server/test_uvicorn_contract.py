"""What `app/server` leans on in uvicorn beyond its documented interface.

When this fails after an upgrade, read the named place in uvicorn again, then `app/server`.
"""

import asyncio
import inspect
from typing import Any, cast

import httptools
import pytest
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import Server
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from app.server.config import ServingConfig
from app.server.protocol import Protocol
from app.settings import Settings
from tests._wire import get
from tests.server._in_process import Connection, Wire

SIGNATURES = {
    HttpToolsProtocol.__init__: "config server_state app_state _loop",
    HttpToolsProtocol.connection_made: "transport",
    HttpToolsProtocol.connection_lost: "exc",
    HttpToolsProtocol.data_received: "data",
    HttpToolsProtocol.eof_received: "",
    HttpToolsProtocol._unset_keepalive_if_required: "",
    HttpToolsProtocol._start_asgi_task: "cycle app",
    HttpToolsProtocol.on_message_begin: "",
    HttpToolsProtocol.on_headers_complete: "",
    HttpToolsProtocol.on_body: "body",
    HttpToolsProtocol.on_message_complete: "",
    HttpToolsProtocol.on_response_complete: "",
    HttpToolsProtocol.resume_writing: "",
    HttpToolsProtocol.shutdown: "",
    FlowControl.resume_reading: "",
    FlowControl.pause_reading: "",
    Server.__init__: "config",
    Server.run: "sockets",
    Server.startup: "sockets",
    Server.shutdown: "sockets",
    Server.on_tick: "counter",
    Server.handle_exit: "sig frame",
    LifespanOn.shutdown: "",
    Process.__init__: "config sockets",
    Process.target: "sockets",
    Process.always_pong: "",
    Process.start: "",
    Multiprocess.__init__: "config sockets",
    Multiprocess.run: "",
    Multiprocess.handle_signals: "",
    Multiprocess.handle_int: "",
    Multiprocess.handle_term: "",
    Multiprocess.handle_hup: "",
    Multiprocess.handle_ttin: "",
    Multiprocess.handle_ttou: "",
}


@pytest.mark.parametrize(
    "function", SIGNATURES, ids=lambda function: cast(str, function.__qualname__)
)
def test_signatures(function: Any) -> None:
    assert [*inspect.signature(function).parameters][1:] == SIGNATURES[function].split()


async def turns() -> None:
    """As many turns of the event loop as anything here takes."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(params=[HttpToolsProtocol, Protocol])
async def connection(request: pytest.FixtureRequest) -> Connection:
    return Connection(request.param)


@pytest.mark.anyio
async def test_a_request_becomes_a_cycle_and_a_task(connection: Connection) -> None:
    protocol, state = connection.protocol, connection.state
    assert protocol in state.connections
    assert state.connections is protocol.connections
    assert not protocol.cycle
    protocol.data_received(get("/a", "X: 1")[:-2])
    assert protocol.url == b"/a"
    assert protocol.headers == [(b"host", b"test")]  # a header counts once the next one begins
    protocol.data_received(b"\r\n")
    cycle = protocol.cycle
    assert isinstance(cycle, RequestResponseCycle)
    assert len(state.tasks) == 1
    assert not connection.begun  # tasks start later: there is time to change the cycle
    await asyncio.sleep(0)
    scope = connection.begun[0]
    assert scope["headers"] == [(b"host", b"test"), (b"x", b"1")]
    assert scope["state"]["shared"] == 1
    assert [cycle.response_started, cycle.disconnected] == [False, False]
    connection.go.set()
    await turns()
    assert cycle.response_started
    assert cycle.response_complete
    assert connection.wire.written.startswith(STATUS_LINE[200])
    assert protocol.timeout_keep_alive_task is not None
    protocol.data_received(b"G")
    assert not protocol.timeout_keep_alive_task
    assert state.total_requests == 1
    assert not state.tasks


@pytest.mark.anyio
async def test_the_pipeline_is_filled_from_the_left(connection: Connection) -> None:
    protocol = connection.protocol
    protocol.data_received(get("/a") + get("/b") + get("/c"))
    assert [cycle.scope["path"] for cycle, _ in protocol.pipeline] == ["/c", "/b"]
    assert protocol.cycle.scope["path"] == "/c"
    assert protocol.flow.read_paused
    connection.go.set()
    await turns()
    assert [scope["path"] for scope in connection.begun] == ["/a", "/b", "/c"]


@pytest.mark.anyio
async def test_no_keep_alive_closes_through_the_cycles_transport(connection: Connection) -> None:
    protocol, other = connection.protocol, Wire()
    protocol.data_received(get("/a"))
    protocol.cycle.transport = other
    protocol.cycle.keep_alive = False
    connection.go.set()
    await turns()
    assert b"connection: close\r\n" in other.written
    assert other.calls == ["close"]
    assert connection.wire.calls == []


@pytest.mark.anyio
async def test_default_headers_can_end_connections(connection: Connection) -> None:
    connection.state.default_headers = [(b"connection", b"close")]
    connection.protocol.data_received(get("/a"))
    connection.go.set()
    await turns()
    assert connection.wire.written.count(b"connection: close") == 1
    assert {"close", "eof"} & set(connection.wire.calls)


@pytest.mark.anyio
async def test_a_disconnected_cycle_writes_nothing_and_wakes(connection: Connection) -> None:
    protocol = connection.protocol
    protocol.data_received(get("/a", "Content-Length: 5", method="POST"))
    cycle = protocol.cycle
    waiting = asyncio.ensure_future(cycle.receive())
    await turns()
    assert not waiting.done()
    cycle.disconnected = True
    cycle.message_event.set()
    assert (await waiting)["type"] == "http.disconnect"
    connection.go.set()
    await turns()
    assert connection.wire.written == b""


@pytest.mark.anyio
async def test_bodies_pause_reading(connection: Connection) -> None:
    protocol = connection.protocol
    protocol.data_received(get("/a", "Content-Length: 100000", method="POST") + bytes(70_000))
    assert protocol.flow.read_paused
    assert connection.wire.calls == ["pause"]
    protocol.flow.resume_reading()
    assert connection.wire.calls == ["pause", "resume"]
    paused = [protocol.flow.write_paused]
    protocol.pause_writing()
    paused.append(protocol.flow.write_paused)
    protocol.resume_writing()
    assert [*paused, protocol.flow.write_paused] == [False, True, False]


class Callbacks:
    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.calls: list[str] = []

    def on_headers_complete(self) -> None:
        self.calls.append("headers")
        if self.parser.get_http_version() == "1.0":
            raise KeyError

    def on_message_complete(self) -> None:
        self.calls.append("complete")


def test_the_parser_passes_on_what_a_callback_raises() -> None:
    with pytest.raises(httptools.HttpParserError) as caught:
        Callbacks().parser.feed_data(b"GET / HTTP/1.0\r\n\r\n")
    assert isinstance(caught.value.__context__, KeyError)


def test_the_parser_says_where_another_protocol_begins() -> None:
    head = get("/", "Connection: upgrade", "Upgrade: x", "Content-Length: 3", method="POST")
    callbacks = Callbacks()
    with pytest.raises(httptools.HttpParserUpgrade) as caught:
        callbacks.parser.feed_data(head + b"abc")
    assert caught.value.args == (len(head),)
    assert callbacks.calls == ["headers", "complete"]
    assert callbacks.parser.should_upgrade()
    assert callbacks.parser.get_method() == b"POST"


@pytest.mark.anyio
async def test_ticks_make_the_default_headers_anew() -> None:
    config = ServingConfig(Settings(), "unused:app")
    server = Server(config)
    server.server_state.default_headers = [(b"a", b"b")]
    assert not await server.on_tick(1)
    assert server.server_state.default_headers == [(b"a", b"b")]
    assert not await server.on_tick(10)
    assert [name for name, _ in server.server_state.default_headers] == [b"date"]
    server.should_exit = True
    assert await server.on_tick(11)
    assert server._captured_signals == []  # what is noted there is raised again in the end


def test_names_of_the_processes() -> None:
    source = inspect.getsource(Process)
    for name in ("self.parent_conn", "self.child_conn", "self.process", "self._server"):
        assert name in source
    assert "self.child_conn.send(self.server.started)" in inspect.getsource(Process.pong)
    assert "self.target" in inspect.getsource(Process.__init__)
    source = inspect.getsource(Multiprocess)
    for name in ("self.signal_queue", "self.should_exit", "self.sockets", "self.processes_num"):
        assert name in source
    source = inspect.getsource(Server)
    for name in ("self.servers", "self.lifespan", "self.server_state", "self.started"):
        assert name in source
    assert "self.state" in inspect.getsource(LifespanOn)
