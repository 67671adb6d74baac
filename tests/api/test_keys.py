"""Keys: only health answers without one; files and variables of keys; no message holds a key."""

import hmac
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from app.api.keys import Keys
from app.layers import LAYERS
from app.main import create_app
from app.settings import Settings, SettingsError, load_settings

KEY, OTHER = "first-key-0123456789", "second_key/0123456789+="
HEADERS = {"Authorization": f"Bearer {KEY}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
VALUES = {"layer": "relu", "model": "relu", "version": "1", "state": "live", "code": "internal"}
OPEN = ("/livez", "/readyz")
UNKNOWN = ("/", "/nowhere", "/v1/layers/", "/livez/", "/livez/x", "//livez", "/LIVEZ", "/livez;x",
           "/v2/nowhere", "/v2x", "/v2/no", "/docs/assets/../docs.js", "/errors/")  # fmt: skip


@asynccontextmanager
async def calling(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def guarded(**settings: Any) -> Any:
    return create_app(Settings(api_keys=f"{KEY}, {OTHER}", **settings))


def parts_of(app: Any) -> Iterator[Any]:
    """Every object that the app is made of, found by walking what each holds."""
    seen, found = set(), [app]
    while found:
        part = found.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        held = getattr(part, "__dict__", {}).values()
        found += [p for p in held if callable(p) or isinstance(p, list | dict)]
        found += part if isinstance(part, list) else part.values() if isinstance(part, dict) else []


def paths_of(app: Any) -> set[str]:
    """The paths of every route, and of every layer's short way, with values in them."""
    paths = {f"/v1/layers/{name}" for name in LAYERS}
    for part in parts_of(app):
        if isinstance(part, Mount):
            paths |= {part.path, f"{part.path}/docs.js"}
        # FastAPI's routers keep those that they include, whose own routes are walked as well.
        elif isinstance(part, BaseRoute) and not hasattr(part, "original_router"):
            assert isinstance(part, Route), f"{part}: how is it asked for?"
            names = part.param_convertors
            paths.add(part.path_format.format(**{name: VALUES[name] for name in names}))
    return paths


@pytest.mark.anyio
async def test_every_route_asks_for_a_key() -> None:
    app = guarded()
    paths = paths_of(app)
    assert {"/livez", "/metrics", "/v1/info", "/v1/layers/relu/shape", "/openapi.json", "/docs",
            "/docs/assets/docs.js", "/errors/internal", "/v2", "/v2/models/relu/infer",
            "/v2/models/relu/versions/1/stats"} <= paths  # fmt: skip
    async with calling(app) as http:
        for path in sorted(paths | set(UNKNOWN)):
            for method in METHODS:
                without = await http.request(method, path)
                assert (without.status_code == 401) == (path not in OPEN), (method, path)
                having = await http.request(method, path, headers=HEADERS)
                assert having.status_code != 401, (method, path)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (f"BEARER  {KEY} ", 200),
        (f"Bearer {OTHER}", 200),
        ("", 401),
        (KEY, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY.upper()}", 401),
        (f"Bearer {KEY},{OTHER}", 401),
        (f"Bearer {KEY} {OTHER}", 401),
        (f"Basic {KEY}", 401),
        (f"Bearer\t{KEY}", 401),
        (f"Bearer {KEY}\u00e9".encode().decode("l1"), 401),
        ("Bearer " + "x" * 30_000, 401),
    ],
)
async def test_the_header_is_read_strictly(value: str, status: int) -> None:
    async with calling(guarded()) as http:
        answer = await http.get("/v1/info", headers=[(b"Authorization", value.encode("l1"))])
    assert answer.status_code == status


@pytest.mark.anyio
async def test_a_key_comes_in_its_header_alone_and_once() -> None:
    async with calling(guarded()) as http:
        for parameter in ("api_key", "key", "access_token", "Authorization"):
            assert (await http.get("/v1/info", params={parameter: KEY})).status_code == 401
        assert (await http.get("/v1/info", headers={"X-API-Key": KEY})).status_code == 401
        assert (await http.get("/v1/info", headers={"Cookie": f"key={KEY}"})).status_code == 401
        assert (await http.get("/v1/info", auth=("user", KEY))).status_code == 401
        twice = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")]
        for lines in (twice, twice[::-1], twice[:1] * 2):
            assert (await http.get("/v1/info", headers=lines)).status_code == 401


@pytest.mark.anyio
async def test_the_refusal_has_the_protocols_form() -> None:
    async with calling(guarded()) as http:
        refused = await http.post("/v1/layers/relu", json={"input": [1]})
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["type"] == "/errors/unauthorized"
        refused = await http.post("/v2/models/relu/infer", json={})
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json().keys() == {"error"}
        assert (await http.get("/errors/unauthorized", headers=HEADERS)).status_code == 200


@pytest.mark.anyio
async def test_who_is_not_let_in_is_counted() -> None:
    async with calling(guarded(max_requests_per_minute=2)) as http:
        statuses = [(await http.get("/v1/info")).status_code for _ in range(5)]
        assert statuses == [401, 401, 429, 429, 429]
        shown = (await http.get("/metrics", headers=HEADERS)).text
    assert 'lamina_denied_requests_total{reason="unauthorized"} 2.0' in shown
    assert 'lamina_denied_requests_total{reason="rate-limited"} 3.0' in shown


@pytest.mark.anyio
async def test_preflights_need_no_key() -> None:
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
              "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    async with calling(guarded(cors_origins="https://a.example")) as http:
        for path in ("/v1/layers/relu", "/v2/models/relu/infer", "/nowhere"):
            assert (await http.options(path, headers=asking)).status_code == 200
            # Without what makes it a preflight it is a request like any other.
            assert (await http.options(path)).status_code == 401


def test_every_key_is_compared_whichever_came(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("app.api.keys.compare_digest", counting)
    keys = Keys([KEY, OTHER, "third-key-0123456789"])
    for came, known in ((KEY, True), (OTHER, True), ("x", False), ("", False)):
        compared.clear()
        header = (b"authorization", b"Bearer " + came.encode())
        assert (keys.client_of([header]) is not None) == known
        assert len(compared) == 3
        assert all(len(digest) == 32 for digest in compared)


@pytest.mark.anyio
async def test_which_key_came_is_told_by_a_short_id() -> None:
    scopes: list[Any] = []
    app = guarded()

    async def outermost(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    async with calling(outermost) as http:
        for key in (KEY, OTHER, KEY, "x" * 20):
            await http.get("/v1/info", headers={"Authorization": f"Bearer {key}"})
    # `printf %s first-key-0123456789 | sha256sum`, and so on.
    assert [scope["state"]["client_id"] for scope in scopes] == [
        "ed60d752",
        "6a202383",
        "ed60d752",
        None,
    ]


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    text = f"# the first\r\n\r\n  {KEY}  \r\n  # another\n\n{OTHER}\n{KEY}"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert Settings(api_keys_file=file).read_keys() == (KEY, OTHER)
    both = Settings(api_keys_file=file, api_keys="of-the-variable-01")
    assert both.read_keys() == ("of-the-variable-01", KEY, OTHER)
    assert Settings().read_keys() == ()


def test_settings_can_hold_the_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(OTHER)
    held = Settings(api_keys=KEY, api_keys_file=file).holding_keys()
    file.unlink()
    assert pickle.loads(pickle.dumps(held)).read_keys() == (KEY, OTHER)
    assert OTHER not in repr(held)


WEAK = "canary-7f3a"
STRONG_WEAK = (
    (f"{WEAK}", "at least 16 characters"),
    (f"{WEAK} with spaces", "printable ASCII"),
    (f"{WEAK}-with-\u00fcmlaut", "printable ASCII"),
    (f"{WEAK}-with-\x07-bell", "printable ASCII"),
)


@pytest.mark.parametrize(("key", "said"), STRONG_WEAK)
def test_a_weak_key_ends_the_start_and_is_not_printed(
    key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# one\n{KEY}\n{key}\n", "utf-8")
    for variable, value in (("API_KEYS", f"{KEY},{key}"), ("API_KEYS_FILE", str(file))):
        with monkeypatch.context() as context:
            context.setenv(f"LAMINA_{variable}", value)
            with pytest.raises(SettingsError) as caught:
                load_settings()
        message = str(caught.value)
        assert message.startswith(f"LAMINA_{variable}")
        assert said in message
        assert "line 3" in message or "key 2" in message
        assert "\n" not in message
        for secret in (WEAK, KEY):
            assert secret not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "no key"),
        (b"# nothing\n\n  \n", "no key"),
        (b"\xff\xfe" + KEY.encode("utf-16-le"), "not text"),
    ],
)
def test_a_file_that_holds_no_key_ends_the_start(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("LAMINA_API_KEYS_FILE", str(file))
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=said):
        create_app(Settings(api_keys_file=file))


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_empty_variable_does_not_open_the_service(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMINA_API_KEYS", value)
    with pytest.raises(SettingsError, match="LAMINA_API_KEYS: it is set and holds no key"):
        load_settings()


def test_settings_print_no_key() -> None:
    settings = Settings(api_keys=KEY)
    for text in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        str(settings.limits_by_name),
    ):
        assert KEY not in text
