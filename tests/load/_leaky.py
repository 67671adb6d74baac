"""`lamina serve` with a fault: every body is kept for ever."""

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server import cli, worker

kept: list[object] = []
build = worker.build


def leaky() -> ASGIApp:
    app = build()

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
