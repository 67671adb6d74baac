"""A proxy on loopback that treats connections badly."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

PIECE_BYTES = 16 * 1024
RESET = struct.pack("ii", 1, 0)
"""The socket option by which closing sends RST."""


@dataclass(frozen=True)
class Way:
    """What happens to the bytes of one direction.

    Each piece is `delay_s` late and has at most `piece_bytes`. After `reset_after` bytes both ends
    get RST; after `end_after`, the receiver gets the end of the stream, and no more.
    """

    delay_s: float = 0.0
    piece_bytes: int = PIECE_BYTES
    reset_after: int | None = None
    end_after: int | None = None


async def _pass_on(
    way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: list[socket.socket]
) -> None:
    passed, bound = 0, way.reset_after if way.end_after is None else way.end_after
    while bound is None or passed < bound:
        most = way.piece_bytes if bound is None else min(way.piece_bytes, bound - passed)
        piece = await reader.read(most)
        if not piece:
            break
        await asyncio.sleep(way.delay_s)
        writer.write(piece)
        await writer.drain()
        passed += len(piece)
    else:
        if way.reset_after is not None:
            for end in ends:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            raise ConnectionResetError
    if writer.can_write_eof():
        writer.write_eof()


STRAIGHT = Way()


@asynccontextmanager
async def proxy(port: int, *, up: Way = STRAIGHT, down: Way = STRAIGHT) -> AsyncIterator[int]:
    """The port of a proxy to `port`: requests go `up`, answers come `down`."""
    tasks = set[asyncio.Task[None]]()

    async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        service, forth = await asyncio.open_connection("127.0.0.1", port)
        ends = [writer.get_extra_info("socket") for writer in (back, forth)]
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(up, client, forth, ends))
                both.create_task(_pass_on(down, service, back, ends))
        except* OSError:
            pass
        finally:
            back.close()
            forth.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
