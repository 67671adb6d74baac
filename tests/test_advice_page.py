"""docs/advice.md has a section for every code of an advice, and its request gets that advice."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[1]
SECTIONS = re.findall(
    r"^## (\S+)\n.*?```json\n(.*?)\n```",
    (ROOT / "docs/advice.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://lamina") as client:
        yield client


@pytest.mark.parametrize(("code", "request_text"), SECTIONS, ids=[code for code, _ in SECTIONS])
async def test_the_request_of_a_section_gets_its_advice(
    client: httpx.AsyncClient, code: str, request_text: str
) -> None:
    body = {**json.loads(request_text), "explain": True}
    layer = body.pop("layer", None)
    path = "/v1/sequential" if layer is None else f"/v1/layers/{layer}"
    answer = (await client.post(path, json=body)).json()
    found = answer["explanation"]["advice"] if layer else answer["placement"]
    advice = {one["code"]: one for one in found}
    assert code in advice, answer
    assert advice[code]["more"] == f"docs/advice.md#{code}"


def test_every_code_has_a_section() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    codes = set(re.findall(r'Advice\(\s*code="([a-z-]+)"', sources))
    assert len(codes) > 10
    assert codes == {code for code, _ in SECTIONS}
