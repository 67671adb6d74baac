"""What browsers are told: origins on every status, preflights, request ids, protecting headers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.settings import Settings, SettingsError, load_settings
from tests._faults import BODY, CANARY, ORIGIN, app
from tests.api.test_keys import HEADERS, KEY, METHODS, UNKNOWN, calling, paths_of

pytestmark = pytest.mark.anyio
RELU = "/v1/layers/relu"
EXPOSED = {"x-request-id", "retry-after", "server-timing", "inference-header-content-length"}
SENT = {"content-type", "authorization", "x-request-id", "x-request-timeout-ms",
        "inference-header-content-length"}  # fmt: skip
PLAIN = {**HEADERS, "Content-Type": "text/plain"}
JSON = {**HEADERS, "Content-Type": "application/json"}
ANSWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "answer": (200, {"method": "POST", "url": RELU, "json": BODY}),
    "v2 answer": (200, {"method": "GET", "url": "/v2"}),
    "page": (200, {"method": "GET", "url": "/docs"}),
    "broken": (400, {"method": "POST", "url": RELU, "content": b"{", "headers": JSON}),
    "no key": (401, {"method": "POST", "url": RELU, "json": BODY, "headers": {}}),
    "v2 no key": (401, {"method": "GET", "url": "/v2", "headers": {}}),
    "no path": (404, {"method": "GET", "url": "/nowhere"}),
    "v2 no path": (404, {"method": "GET", "url": "/v2/nowhere"}),
    "no layer": (404, {"method": "POST", "url": "/v1/layers/none", "json": BODY}),
    "no file": (404, {"method": "GET", "url": "/docs/assets/none"}),
    "method": (405, {"method": "DELETE", "url": RELU}),
    "v2 method": (405, {"method": "DELETE", "url": "/v2"}),
    "options": (405, {"method": "OPTIONS", "url": RELU}),
    "too large": (413, {"method": "POST", "url": RELU, "content": b" " * 5000, "headers": JSON}),
    "media": (415, {"method": "POST", "url": RELU, "content": b"{}", "headers": PLAIN}),
    "wrong": (422, {"method": "POST", "url": RELU, "json": {}}),
    "bug": (500, {"method": "POST", "url": "/v1/layers/bug", "json": BODY}),
    "memory": (503, {"method": "POST", "url": "/v1/layers/out_of_memory", "json": BODY}),
    "deadline": (504, {"method": "POST", "url": "/v1/layers/deadline", "json": BODY}),
}


@pytest.fixture(scope="module")
def service() -> Any:
    return app(api_keys=KEY)


@pytest.fixture
async def http(service: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(service) as client:
        yield client


async def ask(http: httpx.AsyncClient, name: str, **headers: str) -> httpx.Response:
    status, request = ANSWERS[name]
    response = await http.request(
        **request | {"headers": request.get("headers", HEADERS) | headers}
    )
    assert response.status_code == status, response.text
    return response


def names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_is_readable_from_its_origin(http: httpx.AsyncClient, name: str) -> None:
    known = await ask(http, name, Origin=ORIGIN)
    assert known.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]
    assert names(known.headers["Access-Control-Expose-Headers"]) == EXPOSED
    assert "Access-Control-Allow-Credentials" not in known.headers
    stranger = await ask(http, name, Origin="https://b.example")
    none = await ask(http, name)
    for response in (stranger, none):
        assert "Access-Control-Allow-Origin" not in response.headers
    for response in (known, stranger, none):
        assert names(response.headers["Vary"]) == {"origin"}
        assert len(response.headers.get_list("X-Request-ID")) == 1


async def test_over_the_rate_is_readable_too() -> None:
    async with calling(app(max_requests_per_minute=1)) as http:
        for status in (200, 429):
            response = await http.get("/v1/info", headers={"Origin": ORIGIN})
            assert response.status_code == status
            assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert names(response.headers["Vary"]) == {"origin"}
        assert "Retry-After" in response.headers


def preflight(origin: str = ORIGIN, method: str = "POST", **more: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": ", ".join(sorted(SENT)),
        **more,
    }


async def test_preflights(http: httpx.AsyncClient) -> None:
    for path in (RELU, "/v2/models/relu/infer", "/nowhere"):
        answer = await http.options(path, headers=preflight())
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert names(answer.headers["Access-Control-Allow-Headers"]) >= SENT
        assert names(answer.headers["Access-Control-Allow-Methods"]) == {"get", "post"}
        assert answer.headers["Access-Control-Max-Age"] == "600"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "origin" in names(answer.headers["Vary"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert len(answer.headers.get_list("X-Request-ID")) == 1


@pytest.mark.parametrize(
    "asked",
    [
        preflight("https://b.example"),
        preflight("null"),
        preflight("https://a.example.evil.example"),
        preflight("http://a.example"),
        preflight("https://A.example"),
        preflight(method="DELETE"),
        preflight() | {"Access-Control-Request-Headers": "x-other"},
        preflight() | {"Access-Control-Request-Private-Network": "true"},
    ],
)
async def test_preflights_that_are_refused(http: httpx.AsyncClient, asked: dict[str, str]) -> None:
    answer = await http.options(RELU, headers=asked)
    assert answer.status_code == 400
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == (ORIGIN if asked["Origin"] == ORIGIN else None)
    assert "Access-Control-Allow-Private-Network" not in answer.headers
    assert "origin" in names(answer.headers["Vary"])


async def test_any_origin_or_none() -> None:
    async with calling(app(cors_origins="*")) as http:
        answer = await http.get("/nowhere", headers={"Origin": ORIGIN})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
    async with calling(app(cors_origins=())) as http:
        answer = await http.get("/v1/info", headers={"Origin": ORIGIN})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert (await http.options(RELU, headers=preflight())).status_code == 405
    async with calling(app(cors_credentials=True)) as http:
        for origin, allowed in ((ORIGIN, True), ("https://b.example", False)):
            answer = await http.get("/v1/info", headers={"Origin": origin})
            assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == allowed


@pytest.mark.parametrize(
    "value",
    ["https://a.example", "http://localhost:5173", "https://a.example:8443,http://[::1]:8080",
     "http://127.0.0.1:3000, https://b.example", "tauri://localhost", "*"],
)  # fmt: skip
def test_origins(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CORS_ORIGINS", value)
    assert ",".join(load_settings().cors_origins) == value.replace(" ", "")


@pytest.mark.parametrize(
    "value",
    ["a.example", "https://", "https://a.example/", "https://a.example/path", "https://A.example",
     "https://a.example?x", "https://u:p@a.example", "null", "https://*.example", "https://a b",
     "https://a.example:port", "https://a.example,b.example", "http://a.example:80",
     "https://a.example:443", "https://a.example\nhttps://b.example"],
)  # fmt: skip
def test_what_is_no_origin_ends_the_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CORS_ORIGINS", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith("LAMINA_CORS_ORIGINS=")
    assert "\n" not in str(caught.value)


HOSTILE = (
    "a b", "a\tb", "<script>", "a;b", "a,b", "a/b", "../a", "a%0d%0aSet-Cookie:x", "\x1b[31m",
    "a\x00b", "\u00e9", "x" * 65, "", " ", "{}", "$(id)", "a\u2028b",
)  # fmt: skip


@pytest.mark.parametrize("name", ["answer", "no key", "no path", "v2 no path", "bug", "page"])
async def test_request_ids(http: httpx.AsyncClient, name: str) -> None:
    for kept in ("a", "x" * 64, "0-_Z", "7f3a91c2-0000-4000-8000-000000000000"):
        response = await ask(http, name, **{"X-Request-ID": kept})
        assert response.headers.get_list("X-Request-ID") == [kept]
        if response.headers["Content-Type"] == "application/problem+json":
            assert response.json()["request_id"] == kept
    minted = set()
    for hostile in HOSTILE:
        response = await http.get("/nowhere", headers=[(b"X-Request-ID", hostile.encode())])
        [told] = response.headers.get_list("X-Request-ID")
        assert len(told) == 32
        assert told.isalnum()
        minted.add(told)
    assert len(minted) == len(HOSTILE)


async def test_of_two_request_ids_no_hostile_one_comes_back(http: httpx.AsyncClient) -> None:
    lines = [("X-Request-ID", "good"), ("X-Request-ID", "<bad>")]
    for sent in (lines, lines[::-1]):
        [told] = (await http.get("/nowhere", headers=sent)).headers.get_list("X-Request-ID")
        assert "bad" not in told


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_has_its_protecting_headers(http: httpx.AsyncClient, name: str) -> None:
    response = await ask(http, name)
    assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert "Server" not in response.headers
    if ANSWERS[name][1]["method"] == "POST" or response.status_code >= 400:
        assert response.headers["Cache-Control"] == "no-store"
    if response.headers["Content-Type"].startswith("text/html"):
        assert response.headers["Referrer-Policy"] == "no-referrer"
        policy = response.headers["Content-Security-Policy"].split("; ")
        assert "frame-ancestors 'self'" in policy
        assert not [part for part in policy if "unsafe" in part and "style" not in part]


async def test_every_route_has_its_protecting_headers(
    http: httpx.AsyncClient, service: Any
) -> None:
    for path in sorted(paths_of(service) | set(UNKNOWN)):
        for method in METHODS:
            response = await http.request(method, path, headers=HEADERS)
            assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"], path
    for path in ("/docs", "/errors/internal"):
        page = await http.get(path, headers=HEADERS)
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in page.headers["Content-Security-Policy"] or path == "/docs"


async def test_no_answer_sends_a_visitor_where_the_request_says(http: httpx.AsyncClient) -> None:
    for path in (*UNKNOWN, "/v1/layers/", "/docs/", "/docs/assets", "//evil.example/"):
        response = await http.get(path, headers={**HEADERS, "Host": f"{CANARY}.example"})
        assert response.status_code in (200, 404), path
        assert "Location" not in response.headers
        assert CANARY not in response.text


def test_wildcards_take_no_credentials() -> None:
    with pytest.raises(ValueError, match="list the origins"):
        Settings(cors_origins=("*", ORIGIN), cors_credentials=True)
