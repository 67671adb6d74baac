"""Response headers that restrict what browsers may do."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOSNIFF = {"X-Content-Type-Options": "nosniff"}
NO_STORE = NOSNIFF | {"Cache-Control": "no-store"}
"""For responses that must not be cached: computed answers and problems."""


def page_headers(*sources: str) -> dict[str, str]:
    """Security headers of an HTML page: what it may load, its referrer policy, who may embed it.

    `sources` are Content-Security-Policy directives in addition to the common ones.
    """
    common = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'self'")
    policy = "; ".join((*sources, *common))
    return NOSNIFF | {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


class WithHeaders:
    """Adds NOSNIFF to every response of `app` that lacks it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_missing(message["headers"])]
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


_ADDED = [(name.lower().encode(), value.encode()) for name, value in NOSNIFF.items()]


def _missing(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name for name, _ in headers}
    return [header for header in _ADDED if header[0] not in present]
