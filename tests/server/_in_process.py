"""A protocol without a network: what it asks of its transport is noted."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.server.config import ServingConfig
from app.settings import Settings


class Wire(asyncio.Transport):
    """A transport that notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def write_eof(self) -> None:
        self.calls.append("eof")

    def get_write_buffer_size(self) -> int:
        return 0


class Connection:
    """A protocol on a wire, with an app that waits until it is told to answer."""

    def __init__(self, kind: type[HttpToolsProtocol]) -> None:
        self.begun: list[dict[str, Any]] = []
        self.go = asyncio.Event()
        config = ServingConfig(Settings(), "unused:app")
        config.loaded = True
        config.loaded_app = self.app
        config.interface = "asgi3"
        config.ws_protocol_class = None
        self.state = ServerState()
        self.wire = Wire()
        self.app_state: dict[str, Any] = {"shared": 1}
        self.protocol = kind(config, self.state, self.app_state, asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope)
        await self.go.wait()
        fields = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body"})
