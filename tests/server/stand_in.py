"""A small app behind the real server, for what the service does not do on demand.

`python -m tests.server.stand_in serve --port 8000` serves it as `lamina serve` would.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import CatchAll
from app.server import cli
from app.settings import Settings

APP = "tests.server.stand_in"
SEEN: Counter[str] = Counter()
"""How many requests for `/wait` have begun, and how many of their clients have left."""


class Readiness:
    def __init__(self) -> None:
        self.ready = True
        self.device_lost = False

    def drain(self) -> None:
        self.ready = False


def build(settings: Settings) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/keys":
            await respond(send, ",".join(settings.read_keys()).encode())
        else:
            await answer(scope, receive, send)

    return CatchAll(app)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    _, name, *rest = scope["path"].split("/")
    number = int(rest[0]) if rest else 0
    if name == "early":
        await respond(send, b"early", 401)
    elif name == "early-close":
        await respond(send, b"early", 401, [(b"connection", b"close")])
    elif name == "deaf":
        await asyncio.sleep(4)
    elif name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name == "lose-device":
        scope["state"]["readiness"].device_lost = True
        await respond(send, b"lost", 503)
    elif name == "hang":
        time.sleep(600)
    elif name == "collectable":
        await respond(send, b"%d" % len(gc.get_objects()))
    elif name == "large":
        await respond(send, bytes(number))
    elif name == "header":
        found = [value for key, value in scope["headers"] if key == b"x-test"]
        await read(receive)
        trailed = [value for key, value in scope["headers"] if key == b"x-trailer"]
        await respond(send, b",".join(found + trailed))
    elif name == "wait":
        SEEN["begun"] += 1
        await read(receive)
        await receive()
        SEEN["left"] += 1
    elif name == "seen":
        await respond(send, b"%d %d" % (SEEN["begun"], SEEN["left"]))
    elif name == "arrived":
        waited = time.perf_counter() - scope["state"]["arrived"]
        await respond(send, b"%.3f" % waited)
    elif name == "ready":
        ready = scope["state"]["readiness"].ready
        await respond(send, b"", 200 if ready else 503)
    else:
        length = await read(receive)
        await asyncio.sleep(number / 1000)
        await respond(send, b"%d %d" % (length, os.getpid()))


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if os.environ.get("STAND_IN_FAILS"):
        raise RuntimeError
    scope["state"]["readiness"] = Readiness()
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def read(receive: Receive) -> int:
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            return length


async def respond(
    send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    fields: list[Any] = [(b"content-length", b"%d" % len(body)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__mp_main__":  # a worker, which imports what its parent ran
    time.sleep(float(os.environ.get("STAND_IN_IMPORT_S", "0")))
if __name__ == "__main__":
    sys.exit(cli.main(app="tests.server.stand_in:build"))
