"""Responses to errors that the app never sees: malformed HTTP, oversized headers, overload."""

import logging
import time
from collections.abc import Iterable

from asgi_correlation_id import correlation_id
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.api.problems import problem
from app.errors import LaminaError

logger = logging.getLogger("lamina")

LINES_A_SECOND = 10


def answer(
    error: LaminaError, request_id: str, headers: Iterable[tuple[bytes, bytes]], body: bool
) -> bytes:
    """The complete response to a domain error, with `Connection: close`.

    `headers` are added to the response's own; `body` is false for HEAD requests.
    """
    token = correlation_id.set(request_id)
    response = problem(error)
    correlation_id.reset(token)
    lines = [STATUS_LINE[response.status_code]]
    own = ((b"x-request-id", request_id.encode()), (b"connection", b"close"))
    common = ((name, value) for name, value in headers if name != b"connection")
    for name, value in (*common, *response.raw_headers, *own):
        lines += (name, b": ", value, b"\r\n")
    lines += (b"\r\n", bytes(response.body) if body else b"")
    return b"".join(lines)


class Sparingly:
    """Logs at most `LINES_A_SECOND` warnings per second, and the number of those suppressed."""

    def __init__(self) -> None:
        self._second = self._lines = self._left_out = 0

    def warn(self, message: str, *values: object, **fields: str) -> None:
        """Log a warning with these fields, or count it as suppressed."""
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                logger.warning("%d more refusals in that second", self._left_out)
            self._second, self._lines, self._left_out = second, 0, 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            logger.warning(message, *values, extra=fields)
        else:
            self._left_out += 1
