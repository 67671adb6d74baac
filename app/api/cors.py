"""CORS: what pages from other origins may send and read."""

from collections.abc import Collection, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app.api.headers import NOSNIFF

BINARY_HEADER = "Inference-Header-Content-Length"
REQUEST_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    BINARY_HEADER,
)
RESPONSE_HEADERS = ("X-Request-ID", "Retry-After", "Server-Timing", BINARY_HEADER)
PREFLIGHT_AGE_S = 600


class CrossOrigin(CORSMiddleware):
    """Allows pages from these origins to call `app`."""

    def __init__(self, app: ASGIApp, origins: Collection[str], *, credentials: bool) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_credentials=credentials,
            allow_methods=["GET", "POST"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            max_age=PREFLIGHT_AGE_S,
        )
        self.preflight_headers.update(NOSNIFF)

    def headers_for(self, request: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The CORS headers of a response that bypasses the app, given the request's headers."""
        headers = MutableHeaders()
        origin = Headers(raw=list(request)).get("origin")
        if origin is not None:
            headers.update(self.simple_headers)
        if origin is not None and not self.allow_all_origins and self.is_allowed_origin(origin):
            self.allow_explicit_origin(headers, origin)
        else:
            headers["Vary"] = "Origin"
        return headers.raw
