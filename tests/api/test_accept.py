"""`Accept`: which form an answer has, and what is refused (RFC 9110, 12.4.2 and 12.5.1)."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.api.accept import accepted
from app.errors import NotAcceptable
from app.main import create_app
from app.settings import Settings
from tests._binary import FILE, JSON, PROBLEM
from tests.api.test_keys import calling

pytestmark = pytest.mark.anyio
NONE = ""
CHOSEN: dict[str, tuple[str, list[str]]] = {
    "no wish": (JSON, ["", " ", ",", ", ,", "*/*", "application/*", " */* ;q=0.1"]),
    "a type excluded, the rest taken": (
        FILE,
        [
            f"{JSON};q=0, */*",
            f"*/*, {JSON};q=0",
            f"{JSON};q=0.000,*/*;q=0.001",
            f"{JSON};q=0, application/*",
            f"{JSON};q=0, application/*;q=0.1, */*;q=0",
            f"{JSON}; Q=0, */*",
            f"{JSON} ; q = 0 , */*",
            f"{JSON}\t;\tq=0\t,\t*/*",
            "Application/JSON;q=0, */*",
            f"{JSON};charset=utf-8;q=0, */*",
            f'{JSON};a=",*/*;q=1";q=0, */*',
            f"{JSON};q=0;ext=1, */*",
        ],
    ),
    "the other excluded": (JSON, [f"{FILE};q=0, */*", f"*/*, {FILE.upper()};Q=0"]),
    "the more specific range counts": (
        FILE,
        [
            f"*/*, application/*;q=0.1, {JSON};q=0.1, {FILE};q=0.2",
            f"application/*;q=0, {FILE};q=0.1, */*",
            f"{JSON};q=0.2, application/*;q=0.5",
            f"{FILE}, */*;q=0.1",
            f"{JSON};version=2, {FILE};q=0.5, {JSON};q=0.4",
            f"{JSON};q=0.4, {FILE};q=0.5, {JSON};version=2",
        ],
    ),
    "the weight decides": (
        FILE,
        [
            f"{JSON};q=0.5, {FILE}",
            f"{JSON};q=.5, {FILE};q=.6",
            f"{JSON};q=0.998, {FILE};q=0.999",
            f"{JSON};q=0., {FILE};q=1.",
            f"image/png, {FILE};q=0.1",
            f'text/x;a="b,{JSON};c=\\"d", {FILE}',
        ],
    ),
    "of equals, the first": (FILE, [f"{FILE}, {JSON}", f"{FILE};q=0.3, {JSON};q=0.3"]),
    "of equals, the first again": (JSON, [f"{JSON}, {FILE}", f"{JSON};a=b, {FILE}"]),
    "Java's own": (JSON, ["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"]),
    "a browser's": (JSON, ["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"]),
    "a weight that is none excludes": (
        FILE,
        [
            f"{JSON};q={weight}, {FILE};q=0.1"
            for weight in (
                "", ".", "2", "1.001", "-1", "+1", "1e0", "0_1", "nan", "inf", "0x1", "a", "1 1",
                "0.5.5", "\u00b2", '"1"',
            )
        ],
    ),
    "nothing that there is": (
        NONE,
        [
            "image/png",
            f"{JSON};q=0",
            f"{JSON};q=0, {FILE};q=0, */*",
            "application/*;q=0, */*",
            "*/*;q=0",
            "json",
            "*/json",
            "application",
            "/",
            ";",
            ";q=1",
            "*",
            f'"{JSON}"',
            f'"{JSON}',
            f"{JSON}x, x{JSON}",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOSEN)
def test_the_form(case: str) -> None:
    expected, texts = CHOSEN[case]
    for text in texts:
        try:
            found = accepted({b"accept": text.encode("l1")})
        except NotAcceptable:
            found = NONE
        assert found == expected, text


def test_long_lists_are_read() -> None:
    """Within the time that a test has: 32 KiB, the most that headers may hold."""
    for piece in ('"', '\\"', '"\\', ",", ";", "q=", 'a="', '",'):
        text = (piece * 32_768)[:32_768].encode()
        for whole in (text, text + b"\\", b'"' + text, b'"' + text + b"\\"):
            assert accepted({b"accept": b"*/*," + whole}) == JSON


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(Settings(device="cpu", log_level="error"))) as client:
        yield client


ONLY_JSON = {
    "/v1/layers/relu/shape": {"input_shape": [1]},
    "/v1/layers": None,
    "/v1/layers/relu": None,
    "/v1/info": None,
}
OTHERS = ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/v2", "/v2/models/relu")


async def ask(http: httpx.AsyncClient, path: str, body: object, accept: str) -> httpx.Response:
    method = "GET" if body is None else "POST"
    return await http.request(method, path, json=body, headers={"Accept": accept})


@pytest.mark.parametrize("accept", [f"{JSON};q=0, */*", f"*/* , {JSON} ; q=0.0"])
async def test_without_json_tensors_come_as_bytes_and_the_rest_is_refused(
    http: httpx.AsyncClient, accept: str
) -> None:
    answer = await ask(http, "/v1/layers/relu", {"input": [1]}, accept)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, FILE)
    for path, body in ONLY_JSON.items():
        answer = await ask(http, path, body, accept)
        assert (answer.status_code, answer.headers["Content-Type"]) == (406, PROBLEM), path
        assert answer.json()["type"] == "/errors/not-acceptable"
        assert JSON in answer.json()["detail"]
        for taken in (JSON, "*/*", "", "text/html, */*;q=0.1"):
            assert (await ask(http, path, body, taken)).status_code == 200, path
    for path in OTHERS:
        assert (await ask(http, path, None, accept)).status_code == 200, path


async def test_what_is_not_there_is_told_first(http: httpx.AsyncClient) -> None:
    answer = await ask(http, "/v1/layers/rely", None, "image/png")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, PROBLEM)
