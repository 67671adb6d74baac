"""The errors of the domain; `api/problems.py` maps them to HTTP statuses.

LaminaError
├── RequestError                the caller can fix it
│   ├── MalformedBody           not JSON, or not UTF-8
│   ├── Unauthorized            missing or unknown API key
│   ├── RateLimited             too many requests from one client
│   ├── MalformedHttp           not HTTP/1.1, or ambiguous HTTP
│   ├── HeadersTooLarge         too many headers, or too long
│   ├── LengthRequired          no body, or one of undeclared length
│   ├── BodyTimeout             the body did not arrive in time
│   ├── BodyTooLarge            more bytes than the limit
│   ├── UnsupportedMedia        a content type or encoding that cannot be read
│   ├── NotAcceptable           an answer format that cannot be written
│   ├── UnknownLayer            no layer of that name
│   ├── UnknownPath             no such path
│   ├── MethodNotAllowed        the path does not support that method
│   └── InvalidRequest          invalid fields, shapes or options
│       ├── EmptyWindow         a pooling window without elements
│       ├── OutputTooLarge      the result would exceed the limit
│       └── CostLimit           the computation would take too long
├── Overloaded                  the service is at capacity
│   └── TooManyConnections      the connection limit is reached
├── Draining                    the process is shutting down
├── DeadlineExceeded            the answer was not ready in time
├── OutOfMemory                 the device is out of memory at the moment
└── DeviceLost                  the accelerator failed; the service must be restarted
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

MAX_ERRORS = 16
"""Maximum number of invalid fields listed in one error."""


def escaped(name: str) -> str:
    """A field's name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field: a JSON pointer into the request, a stable code, and a sentence."""

    pointer: str
    code: str
    detail: str


class LaminaError(Exception):
    """Base class of all errors that Lamina raises on purpose.

    `code` identifies the kind for programs, `title` for people; `help` is the text of its page.
    """

    code = "internal"
    title = "Internal error"
    help = (
        "The service failed unexpectedly. It is safe to retry: computing a layer has no side "
        "effects. If the request keeps failing, report it with its `request_id`."
    )

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class RequestError(LaminaError):
    """The caller can fix it."""


class MalformedBody(RequestError):
    code = "malformed-body"
    title = "Malformed body"
    help = (
        "The body must be a single JSON object in UTF-8. JSON does not allow bare `NaN` or "
        '`Infinity`, or trailing commas: send non-finite numbers as the strings `"NaN"`, '
        '`"Infinity"` and `"-Infinity"`.'
    )


class Unauthorized(RequestError):
    code = "unauthorized"
    title = "Missing or invalid API key"
    help = (
        "Send one `Authorization: Bearer KEY` header with a key from the service's operator. "
        "Only `/livez` and `/readyz` answer without one; keys in the URL are ignored."
    )


class RateLimited(RequestError):
    """`wait_s` is the time until the next request is allowed."""

    code = "rate-limited"
    title = "Too many requests"
    help = (
        "Requests are limited per API key or per address; `GET /v1/info` shows the limit as "
        "`max_requests_per_minute`. Retry after the time in `Retry-After`."
    )

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class MalformedHttp(RequestError):
    code = "malformed-http"
    title = "Malformed HTTP request"
    help = (
        "The request line, headers or chunks violate HTTP/1.1 or are ambiguous: header names with "
        "`_`, several `Content-Length` headers, or `Content-Length` with `Transfer-Encoding`. "
        "Standard HTTP clients do not send such requests."
    )


class HeadersTooLarge(RequestError):
    code = "headers-too-large"
    title = "Headers too large"
    help = (
        "`GET /v1/info` shows the limits as `max_header_bytes` and `max_header_fields`. Cookies "
        "and tokens for other services are the usual cause; do not send them here."
    )


class LengthRequired(RequestError):
    code = "length-required"
    title = "Length required"
    help = "Send a body with `Content-Length` or `Transfer-Encoding: chunked`."


class BodyTimeout(RequestError):
    code = "body-timeout"
    title = "Body timeout"
    help = (
        "The body stalled for longer than `body_idle_timeout_ms`, did not arrive before the "
        "deadline, or was shorter than its `Content-Length`. Send it without pauses, and check "
        "the length."
    )


class BodyTooLarge(RequestError):
    code = "body-too-large"
    title = "Body too large"
    help = (
        "`GET /v1/info` shows the limits as `max_json_body_bytes` and `max_binary_body_bytes`. "
        "Send fewer samples per request; an operator can raise the limits with "
        "`LAMINA_MAX_JSON_BODY_BYTES` and `LAMINA_MAX_BINARY_BODY_BYTES`."
    )


class UnsupportedMedia(RequestError):
    code = "unsupported-media-type"
    title = "Unsupported media type"
    help = (
        "Send `Content-Type: application/json` and no `Content-Encoding`. "
        "With curl: `-H 'Content-Type: application/json'`."
    )


class NotAcceptable(RequestError):
    code = "not-acceptable"
    title = "Not acceptable"
    help = "Answers are `application/json`: allow it in the `Accept` header, or omit the header."


class UnknownLayer(RequestError):
    code = "unknown-layer"
    title = "Unknown layer"
    help = "`GET /v1/layers` lists the available layers."


class UnknownPath(RequestError):
    code = "unknown-path"
    title = "Unknown path"
    help = "`GET /openapi.json`, if enabled, lists all paths and their methods."


class MethodNotAllowed(RequestError):
    code = "method-not-allowed"
    title = "Method not allowed"
    help = (
        "The `Allow` header lists the supported methods; `GET /openapi.json`, if enabled, lists "
        "all paths."
    )


class InvalidRequest(RequestError):
    code = "invalid-request"
    title = "Invalid request"
    help = (
        "A field is unknown, missing, of the wrong type or out of range, or shapes do not match. "
        "`errors` points to each invalid field; `detail` says what was expected and what was sent."
    )

    @classmethod
    def at(cls, field: str, code: str, detail: str) -> "InvalidRequest":
        """An error in one field; `field` is a path such as `padding` or `padding/0`."""
        return cls(detail, [FieldError(f"#/{field}", code, detail)])

    def within(self, path: str) -> Self:
        """The same error where its request is the part at `path` of another."""
        moved = [
            FieldError(
                f"#/{path}/{found.pointer[2:]}",
                found.code,
                _within(path, found.pointer[2:], found.detail),
            )
            for found in self.errors
        ]
        first = self.errors[0].pointer[2:] if self.errors else ""
        return type(self)(_within(path, first, self.detail), moved)


def _within(path: str, field: str, detail: str) -> str:
    """The detail of an error in a field of the part at `path`."""
    return f"{path}/{detail}" if field and detail.startswith(f"{field}:") else f"{path}: {detail}"


class EmptyWindow(InvalidRequest):
    code = "empty-window"
    title = "Empty pooling window"
    help = (
        "With this padding, dilation and stride, at least one window contains only padding. It "
        "has no maximum and, unless padding counts, no average. Use less padding, a smaller "
        'dilation or `ceil_rule: "drop"`.'
    )


class OutputTooLarge(InvalidRequest):
    code = "output-too-large"
    title = "Output too large"
    help = (
        "The size of the result and its working memory follows from the shapes, before anything "
        "is allocated; `GET /v1/info` shows the limit as `max_output_bytes`. Use a larger stride, "
        "a smaller output or padding, or fewer samples per request."
    )


class CostLimit(InvalidRequest):
    code = "cost-limit"
    title = "Cost limit exceeded"
    help = (
        "The compute time is estimated from the shapes; `GET /v1/info` shows the limit as "
        "`max_cost_ms`. Use a smaller kernel, a larger stride, or fewer samples per request."
    )


class Overloaded(LaminaError):
    """`wait_s` is the estimated time in the queue, 0 if unknown."""

    code = "overloaded"
    title = "Service overloaded"
    help = (
        "The service only accepts what it can answer in time. Nothing was computed. Retry after "
        "the time in `Retry-After`, with exponential backoff."
    )

    def __init__(self, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class TooManyConnections(Overloaded):
    code = "too-many-connections"
    title = "Too many open connections"
    help = (
        "`GET /v1/info` shows the limit as `max_connections`. Reuse connections for many "
        "requests, and close idle ones."
    )


class Draining(LaminaError):
    code = "draining"
    title = "Service shutting down"
    help = (
        "This process is shutting down, for example for an update. Retry: another process takes "
        "over, and computing a layer has no side effects."
    )


class DeadlineExceeded(LaminaError):
    code = "deadline-exceeded"
    title = "Deadline exceeded"
    help = (
        "The answer was not ready within `X-Request-Timeout-Ms`, or within `request_timeout_ms` "
        "of `GET /v1/info`, after the request arrived. Allow more time, or send fewer samples."
    )


class OutOfMemory(LaminaError):
    code = "out-of-memory"
    title = "Out of memory"
    help = (
        "The device has too little free memory for this request at the moment. Retry after the "
        "time in `Retry-After`."
    )


class DeviceLost(LaminaError):
    code = "device-lost"
    title = "Device failed"
    help = "The accelerator failed. Retry after the operator has restarted the service."
