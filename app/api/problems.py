"""Errors on the wire: RFC 9457 problem details, and a page for each kind."""

import asyncio
import html
import logging
import random
from collections.abc import Callable, Iterator

import orjson
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.api.headers import NO_STORE, page_headers
from app.errors import MAX_ERRORS, Draining, LaminaError, RequestError
from app.scheduling import Abandoned

logger = logging.getLogger("lamina")

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 300
MAX_BYTES = 8192
MAX_WAIT_S, MAX_SPREAD_S = 5, 3
METHODS = ("GET", "POST")

STATUS: dict[type[LaminaError], int] = {
    errors.LaminaError: 500,
    errors.MalformedBody: 400,
    errors.MalformedHttp: 400,
    errors.Unauthorized: 401,
    errors.UnknownLayer: 404,
    errors.UnknownPath: 404,
    errors.MethodNotAllowed: 405,
    errors.NotAcceptable: 406,
    errors.BodyTimeout: 408,
    errors.LengthRequired: 411,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.InvalidRequest: 422,
    errors.EmptyWindow: 422,
    errors.OutputTooLarge: 422,
    errors.CostLimit: 422,
    errors.RateLimited: 429,
    errors.HeadersTooLarge: 431,
    errors.Overloaded: 503,
    errors.TooManyConnections: 503,
    errors.Draining: 503,
    errors.OutOfMemory: 503,
    errors.DeviceLost: 503,
    errors.DeadlineExceeded: 504,
}
LEFT = (ClientDisconnect, Abandoned)
"""Raised when the client has disconnected: there is nobody to answer."""
KINDS = {kind.code: kind for kind in STATUS}
ERROR_PAGE = page_headers("default-src 'none'")
ROUTING = {404: errors.UnknownPath, 405: errors.MethodNotAllowed}


def status_of(error: Exception) -> int:
    """The HTTP status of any error; an error that is not a LaminaError is a 500."""
    return STATUS[type(error)] if isinstance(error, LaminaError) else 500


def problem(error: LaminaError) -> Response:
    """The response for a domain error."""
    text = orjson.dumps(problem_body(error))
    return Response(text, STATUS[type(error)], headers_of_error(error), MEDIA_TYPE)


def problem_body(error: LaminaError) -> dict[str, object]:
    """The problem details of a domain error, of bounded size."""
    status = STATUS[type(error)]
    body: dict[str, object] = {
        "type": f"/errors/{error.code}",
        "title": error.title,
        "status": status,
        "detail": short(error.detail),
        "request_id": correlation_id.get() or "-",
    }
    fields = [
        {"pointer": short(e.pointer), "code": e.code, "detail": short(e.detail)}
        for e in error.errors[:MAX_ERRORS]
    ]
    if fields:
        body["errors"] = fields
    while len(orjson.dumps(body)) > MAX_BYTES:
        fields.pop()
    return body


def refusal(error: RequestError) -> dict[str, object]:
    """The problem as the answer to one request of a batch."""
    return {"status": STATUS[type(error)], "body": problem_body(error)}


def headers_of_error(error: LaminaError) -> dict[str, str]:
    """The headers of an error response, in any protocol."""
    status, headers = STATUS[type(error)], dict(NO_STORE)
    if status == 429:
        # Whole seconds, rounded up.
        headers["Retry-After"] = str(int(getattr(error, "wait_s", 0.0)) + 1)
    if status == 503:
        # Random, so that clients do not all retry at once.
        wait_s = min(int(getattr(error, "wait_s", 0.0)), MAX_WAIT_S)
        headers["Retry-After"] = str(wait_s + random.randint(1, MAX_SPREAD_S))  # noqa: S311
    if status == 408:  # the rest of the body is still to come (RFC 9110, 15.5.9)
        headers["Connection"] = "close"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def short(text: str) -> str:
    """Truncate to a bounded length, and replace lone surrogates, which UTF-8 cannot encode."""
    text = text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 3] + "..."
    return text.encode("utf-8", "replace").decode()


class CatchAll:
    """Answers with a problem, or with what `render` makes of the error, if `app` fails before its
    response has started.
    """

    def __init__(
        self, app: ASGIApp, render: Callable[[LaminaError], Response] | None = None
    ) -> None:
        self.app = app
        self.render = render or problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except LEFT:
            return
        except asyncio.CancelledError:
            # On shutdown, the server cancels requests that cannot finish in time.
            if scope["type"] != "http":
                raise
            if not started:
                ending = Draining("the service is shutting down before this request is done; retry")
                await self.render(ending)(scope, receive, send)
        except LaminaError as error:
            if started:
                raise
            await self.render(error)(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            logger.error("request failed: %s", type(error).__name__, exc_info=error)
            fault = LaminaError("unexpected error; it is safe to retry")
            await self.render(fault)(scope, receive, send)


def install(app: FastAPI, hint: str) -> None:
    """Answer every error of the app with a problem, and serve a page for each kind of error; `hint`
    is the detail of routing errors.
    """

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = ROUTING.get(error.status_code, LaminaError)
        response = problem(kind(hint))
        response.headers.update(error.headers or {})
        if error.status_code == 405 and (known := ", ".join(_methods(app, request.scope))):
            response.headers["Allow"] = known
        return response

    @app.get("/errors/{code}", include_in_schema=False)
    async def error_page(code: str) -> Response:
        if code not in KINDS:
            raise HTTPException(404)
        page = "".join(_page(KINDS[code]))
        return Response(page, headers=ERROR_PAGE, media_type="text/html; charset=utf-8")


def _methods(app: FastAPI, scope: Scope) -> Iterator[str]:
    """The methods of a path, none below a mount, which adds its own; Starlette's error lists only
    those of the first matching route.
    """
    for method in METHODS:
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in app.routes):
            yield method


def _page(kind: type[LaminaError]) -> Iterator[str]:
    yield f'<!doctype html><html lang="en"><title>{html.escape(kind.title)}</title>'
    yield f"<h1>{html.escape(kind.title)}</h1>"
    yield f"<p><code>/errors/{kind.code}</code>, status {STATUS[kind]}</p>"
    yield f"<p>{html.escape(kind.help)}</p></html>"
