"""A crowd of clients, each of which sends its next request once the last one is answered."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

TIMEOUT_S = 60.0


@dataclass
class Sent:
    """One request: when its last byte went out, and what came of it."""

    at: float
    outcome: str = "lost"
    asked_to_close: bool = False


@dataclass
class Crowd:
    """Clients of one server; those of `keeping` keep their connections while they may."""

    port: int
    requests: list[bytes]
    keeping: int = 8
    fresh: int = 4
    sent: list[Sent] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    stopping: bool = False

    async def run(self) -> None:
        """Send until `stopping`, or until the server takes no more connections."""
        clients = [self._client(True, n) for n in range(self.keeping)]
        clients += [self._client(False, n) for n in range(self.fresh)]
        await asyncio.wait_for(asyncio.gather(*clients), TIMEOUT_S)

    async def _client(self, keep: bool, turn: int) -> None:
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused_at.append(time.perf_counter())
                return
            again = True
            while again:
                turn += 1
                sent = Sent(time.perf_counter())
                self.sent.append(sent)
                request = self.requests[turn % len(self.requests)]
                await self._exchange(sent, request, reader, writer)
                ended = sent.asked_to_close or sent.outcome == "lost"
                again = keep and not ended and not self.stopping
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(
        self, sent: Sent, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            return
        sent.outcome = head[9:12].decode()
        sent.asked_to_close = b"connection: close" in head.lower()
