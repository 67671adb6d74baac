"""What can go wrong, in the words of the domain; HTTP statuses stand in `api/problems.py`.

LaminaError
├── RequestError                the caller can mend it
│   ├── MalformedBody           not JSON, not UTF-8
│   ├── Unauthorized            no key of ours
│   ├── RateLimited             one client's requests come too fast
│   ├── MalformedHttp           not HTTP/1.1, or HTTP that proxies read in two ways
│   ├── HeadersTooLarge         more headers, or longer ones, than the limit
│   ├── LengthRequired          a body of unknown length where one is needed
│   ├── BodyTimeout             a body that does not come
│   ├── BodyTooLarge            more bytes than the limit
│   ├── UnsupportedMedia        a content type or encoding that is not read here
│   ├── NotAcceptable           an answer format that is not written here
│   ├── UnknownLayer            no layer of that name
│   ├── UnknownPath             no such path
│   ├── MethodNotAllowed        the path does not take that method
│   └── InvalidRequest          well formed and wrong: fields, shapes, options
│       ├── EmptyWindow         a pooling window that holds no element
│       ├── OutputTooLarge      the result would not fit the limit
│       └── CostLimit           the result would take too long
├── Overloaded                  too much to do at the moment
│   └── TooManyConnections      no room for another connection
├── Draining                    the process is about to end
├── DeadlineExceeded            the request's time is over
├── OutOfMemory                 the device has no room at the moment
└── DeviceLost                  the accelerator failed; the service must be restarted
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_ERRORS = 16
"""Most wrong fields that one error names."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: a JSON pointer into the request, a stable code, and a sentence."""

    pointer: str
    code: str
    detail: str


class LaminaError(Exception):
    """Base of every error that Lamina raises on purpose.

    `code` names the kind for programs, `title` for people; `help` is the text of its page.
    """

    code = "internal"
    title = "Something broke on our side"
    help = (
        "The service met a fault of its own. The request may be sent again: computing a layer "
        "has no side effects. If it fails each time, report it with its `request_id`."
    )

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class RequestError(LaminaError):
    """The caller can mend it."""


class MalformedBody(RequestError):
    code = "malformed-body"
    title = "The body cannot be read"
    help = (
        "The body must be one JSON object in UTF-8. JSON has no bare `NaN`, `Infinity` or "
        'trailing comma: write non-finite numbers as the strings `"NaN"`, `"Infinity"` and '
        '`"-Infinity"`.'
    )


class Unauthorized(RequestError):
    code = "unauthorized"
    title = "No valid key"
    help = (
        "Send `Authorization: Bearer KEY`, once, with a key that the service's operator gave you. "
        "Without one only `/livez` and `/readyz` answer; keys in the URL are not looked at."
    )


class RateLimited(RequestError):
    """`wait_s` is how long it takes until the next request may come."""

    code = "rate-limited"
    title = "Too many requests"
    help = (
        "One key, or one address, may send `max_requests_per_minute` of `GET /v1/info`. Send the "
        "next after `Retry-After`."
    )

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class MalformedHttp(RequestError):
    code = "malformed-http"
    title = "The request is not HTTP/1.1"
    help = (
        "The request line, the headers or the chunks break HTTP/1.1, or could be read in two ways: "
        "header names with `_`, two lengths, a length beside `Transfer-Encoding`. Any HTTP client "
        "sends it rightly."
    )


class HeadersTooLarge(RequestError):
    code = "headers-too-large"
    title = "The headers are over the limit"
    help = (
        "`GET /v1/info` names the limits as `max_header_bytes` and `max_header_fields`. Cookies "
        "and tokens of other services are the usual cause: do not send them here."
    )


class LengthRequired(RequestError):
    code = "length-required"
    title = "The request has no body"
    help = "Send a body, with its `Content-Length` or `Transfer-Encoding: chunked`."


class BodyTimeout(RequestError):
    code = "body-timeout"
    title = "The body did not come"
    help = (
        "The body paused for longer than `body_idle_timeout_ms`, or was shorter than its "
        "`Content-Length`. Send it at once, and its true length."
    )


class BodyTooLarge(RequestError):
    code = "body-too-large"
    title = "The body is over the limit"
    help = (
        "`GET /v1/info` names the limit as `max_json_body_bytes`. Send fewer samples a request; "
        "an operator can raise the limit with `LAMINA_MAX_JSON_BODY_BYTES`."
    )


class UnsupportedMedia(RequestError):
    code = "unsupported-media-type"
    title = "The body's format is not supported"
    help = (
        "Send `Content-Type: application/json` and no `Content-Encoding`. "
        "With curl: `-H 'Content-Type: application/json'`."
    )


class NotAcceptable(RequestError):
    code = "not-acceptable"
    title = "No acceptable answer format"
    help = "Answers are `application/json`; let the `Accept` header allow it, or leave it out."


class UnknownLayer(RequestError):
    code = "unknown-layer"
    title = "No such layer"
    help = "`GET /v1/layers` lists the layers that this service computes."


class UnknownPath(RequestError):
    code = "unknown-path"
    title = "No such path"
    help = "`GET /openapi.json`, where it is served, lists the paths and their methods."


class MethodNotAllowed(RequestError):
    code = "method-not-allowed"
    title = "The path does not take that method"
    help = (
        "The `Allow` header names the methods; `GET /openapi.json`, where served, lists all paths."
    )


class InvalidRequest(RequestError):
    code = "invalid-request"
    title = "The request is well formed and wrong"
    help = (
        "A field is unknown, missing, of the wrong type or outside its range, or shapes do not "
        "fit together. `errors` points at each field; `detail` says what was expected and came."
    )

    @classmethod
    def at(cls, field: str, code: str, detail: str) -> "InvalidRequest":
        """The error of one field; `field` is a path such as `padding` or `padding/0`."""
        return cls(detail, [FieldError(f"#/{field}", code, detail)])


class EmptyWindow(InvalidRequest):
    code = "empty-window"
    title = "A pooling window holds no element"
    help = (
        "With this padding, dilation and stride at least one window lies in the padding alone: "
        "it has no maximum, and no average where padding does not count. Use less padding, a "
        'smaller dilation or `ceil_rule: "drop"`.'
    )


class OutputTooLarge(InvalidRequest):
    code = "output-too-large"
    title = "The result would be over the limit"
    help = (
        "Results and working memory are computed from the shapes before anything is allocated; "
        "`GET /v1/info` names the limit as `max_output_bytes`. Use a larger stride, a smaller "
        "output or padding, or fewer samples a request."
    )


class CostLimit(InvalidRequest):
    code = "cost-limit"
    title = "The computation would take too long"
    help = (
        "The cost is estimated from the shapes; `GET /v1/info` names the limit as `max_cost_ms`. "
        "Use a smaller kernel, a larger stride, or fewer samples a request."
    )


class Overloaded(LaminaError):
    """`wait_s` is about how long the queue is, where that is known."""

    code = "overloaded"
    title = "Too much to do at the moment"
    help = (
        "The service takes no more than it can answer in time. Nothing was computed; send the "
        "request again after `Retry-After`, with longer pauses when it happens again."
    )

    def __init__(self, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class TooManyConnections(Overloaded):
    code = "too-many-connections"
    title = "Too many open connections"
    help = (
        "`GET /v1/info` names the limit as `max_connections`. Use one connection for many "
        "requests, and close those that are idle."
    )


class Draining(LaminaError):
    code = "draining"
    title = "The service is about to end"
    help = (
        "This process ends, for a new version or a move. Send the request again: another takes "
        "over. Computing a layer has no side effects."
    )


class DeadlineExceeded(LaminaError):
    code = "deadline-exceeded"
    title = "The time for the answer is over"
    help = (
        "The answer was not ready within `X-Request-Timeout-Ms`, or `request_timeout_ms` of "
        "`GET /v1/info`, from the request's arrival. Allow more time, or send fewer samples."
    )


class OutOfMemory(LaminaError):
    code = "out-of-memory"
    title = "No memory at the moment"
    help = "The device had no room for this request just now. Try again after `Retry-After`."


class DeviceLost(LaminaError):
    code = "device-lost"
    title = "The device failed"
    help = "The accelerator failed. Its operator must restart the service; then try again."
