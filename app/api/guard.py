"""Authentication and rate limiting, before a request's body is read."""

from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.keys import CLIENT_ID, Keys
from app.api.rates import Rates
from app.errors import LaminaError, Unauthorized
from app.observability.clients import network_of
from app.observability.labels import PROBES

OPEN = frozenset(("/livez", "/readyz"))
"""The only paths that need no API key."""
UNLIMITED = PROBES
"""Paths exempt from rate limits, for clients allowed to use them."""


def guarded(
    app: ASGIApp,
    keys: Sequence[str],
    max_requests_per_minute: int | None,
    render: Callable[[str, LaminaError], Response],
    count: Callable[[str], object],
) -> ASGIApp:
    """Wrap the app in a `Guard`, unless neither keys nor a rate limit are configured."""
    rates = Rates(max_requests_per_minute) if max_requests_per_minute else None
    if not keys and not rates:
        return app
    return Guard(app, Keys(keys) if keys else None, rates, render, count)


class Guard:
    """Passes a request on to `app`, or responds with `render(path, error)`.

    `count` is called with the code of each error.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        rates: Rates | None,
        render: Callable[[str, LaminaError], Response],
        count: Callable[[str], object],
    ) -> None:
        self._app = app
        self._keys = keys
        self._rates = rates
        self._render = render
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except LaminaError as error:
                self._count(error.code)
                return await self._render(scope["path"], error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Unauthorized or RateLimited; requests without a valid key count by network."""
        path, client = scope["path"], None
        if self._keys is not None:
            client = self._keys.client_of(scope["headers"])
            scope.setdefault("state", {})[CLIENT_ID] = client
        denied = self._keys is not None and client is None and path not in OPEN
        if self._rates is not None and (denied or path not in UNLIMITED):
            self._rates.take(client or network_of(scope))
        if denied:
            raise Unauthorized("expected Authorization: Bearer KEY, with a valid API key")
