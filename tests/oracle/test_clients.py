"""The clients themselves: without a fault, they agree with the service's plain answers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from app.main import create_app
from app.settings import Settings
from tests.oracle._numbers import array_of, json_of
from tests.oracle._rows import ROWS
from tests.oracle._scenario import Scenario, apart
from tests.oracle.client import results

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


FAULTLESS = [row for row in ROWS if row.fault is None and row.kind != "unexplained"]


def tensors(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer's tensors by dotted name."""
    found = {}
    for name, value in answer.items():
        if name in ("output", "indices"):
            found[name] = array_of(value)
        if name == "outputs":
            found |= {f"outputs.{i}": array_of(part) for i, part in enumerate(value)}
        if name in ("gradients", "running_stats", "batch_stats"):
            for key, part in value.items():
                if key == "inputs":
                    found |= {f"{name}.inputs.{i}": array_of(p) for i, p in enumerate(part)}
                elif key != "num_batches_tracked":
                    found[f"{name}.{key}"] = array_of(part)
    return found


@pytest.mark.parametrize("row", FAULTLESS, ids=lambda row: row.id)
async def test_a_client_agrees_with_the_service(client: httpx.AsyncClient, row: Scenario) -> None:
    body = {**row.body, **row.options}
    if not str(body.get("dtype", "float")).startswith("int"):
        body["compute_dtype"] = "float64"
    if "axis" in row.options:
        body.pop("normalized_shape", None)
    found = results(row.layer, row.body, row.options)
    if "keepdims" in body and isinstance(body.get("grad_output"), np.ndarray):
        body["grad_output"] = body["grad_output"].reshape(found["output"].shape)
    response = await client.post(f"/v1/layers/{row.layer}", json=json_of(body))
    assert response.status_code == 200, response.text
    served = tensors(response.json())
    assert set(found) == set(served)
    own = Scenario(id="", layer=row.layer, body=row.body, sent=found)
    with np.errstate(invalid="ignore"):
        shown = {
            name: float(np.max(np.abs(found[name] - served[name]), initial=0))
            for name in found
            if found[name].shape == served[name].shape
        }
    assert apart(own, served) <= 1, shown
