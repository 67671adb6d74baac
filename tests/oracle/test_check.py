"""`check` is asked what clients did, and must name it: the scenarios of the tables."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.oracle._judge import DIFFERS, agreeing, distance, faults_of, options_of
from tests.oracle._open import OPEN
from tests.oracle._rows import ROWS
from tests.oracle._scenario import Scenario, entry, level

pytestmark = pytest.mark.anyio
NAMED = [
    pytest.param(
        row,
        id=row.id,
        marks=[pytest.mark.xfail(reason=OPEN[row.id], strict=True)] if row.id in OPEN else [],
    )
    for row in ROWS
    if row.kind == "named"
]
RIGHT = [row for row in ROWS if row.kind == "right"]
UNEXPLAINED = [row for row in ROWS if row.kind == "unexplained"]
Listed = tuple[dict[str, Any], str | None]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def check(client: httpx.AsyncClient, row: Scenario) -> dict[str, Any]:
    response = await client.post(f"/v1/layers/{row.layer}/check", json=row.request())
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert [t["name"] for t in answer["tensors"]]
    return answer


def entries(answer: dict[str, Any]) -> list[Listed]:
    return [(d.get("options", {}), d.get("fault")) for d in answer["diagnosis"]]


@pytest.mark.parametrize("row", NAMED)
async def test_what_the_client_did_is_named_first(client: httpx.AsyncClient, row: Scenario) -> None:
    answer = await check(client, row)
    listed = entries(answer)
    shown = json.dumps([listed, answer["searched"]])
    assert answer["match"] is False
    assert answer["searched"]["complete"] is True
    found = [entry(row, *item) for item in listed]
    wanted = entry(row, row.options, row.fault)
    assert wanted in found, shown
    assert {level(*item) for item in listed} == {level(row.options, row.fault)}, shown
    for other in row.with_:
        assert entry(row, other.get("options", {}), other.get("fault")) in found, shown
    if row.alone:
        assert found == [wanted], shown
    for item in answer["diagnosis"]:
        assert item["message"]
        assert set(item["explains"]) >= {t["name"] for t in answer["tensors"] if not t["match"]}
    check_what_is_listed(row, listed)


def check_what_is_listed(row: Scenario, listed: list[Listed]) -> None:
    """All that is listed gives the client's numbers; all that gives them is listed."""
    for options, fault in listed:
        assert distance(row, options, fault) <= DIFFERS, (options, fault)
    found_entries = [entry(row, *item) for item in listed]
    if level(row.options, row.fault) == 1:
        for other in agreeing(row, options_of(row)):
            assert entry(row, other, None) in found_entries, other
    if level(row.options, row.fault) == 4:
        for name in faults_of(row):
            assert entry(row, {}, name) in found_entries, name


def test_open_scenarios_exist() -> None:
    assert set(OPEN) <= {row.id for row in ROWS}
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", RIGHT, ids=lambda row: row.id)
async def test_a_client_that_is_right_matches(client: httpx.AsyncClient, row: Scenario) -> None:
    answer = await check(client, row)
    assert answer["match"] is True, answer["tensors"]
    assert all(tensor["match"] for tensor in answer["tensors"])
    assert answer["diagnosis"] == []


@pytest.mark.parametrize("row", UNEXPLAINED, ids=lambda row: row.id)
async def test_nothing_is_named_without_a_reason(client: httpx.AsyncClient, row: Scenario) -> None:
    answer = await check(client, row)
    assert answer["match"] is False
    assert answer["diagnosis"] == []
    assert answer["searched"]["complete"] is True
