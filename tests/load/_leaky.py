"""`lamina serve` with a fault: every body is kept for ever."""

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server import cli, worker
from app.settings import Settings

kept: list[object] = []
build = worker.build


def leaky(settings: Settings) -> ASGIApp:
    app = build(settings)

    async def keeping(scope: Scope, receive: Receive, send: Send) -> None:
        async def keep() -> Message:
            message = await receive()
            kept.append(message)
            return message

        await app(scope, keep, send)

    return keeping


if __name__ == "__main__":
    worker.build = leaky
    sys.exit(cli.main())
