"""The limits that the service tells are those that it can serve."""

import logging

import pytest

from app.main import create_app
from app.settings import Settings
from tests.api.test_keys import calling

pytestmark = pytest.mark.anyio
MIB = 1 << 20
JSON = {"Content-Type": "application/json"}


def filled(head: bytes, length: int) -> bytes:
    return head + b" " * (length - len(head) - 1) + b"}"


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("/v1/layers/relu", b'{"input": [1]'),
        (
            "/v2/models/relu/infer",
            b'{"inputs": [{"name": "input", "shape": [1], "datatype": "FP32", "data": [1]}]',
        ),
    ],
)
async def test_the_longest_body_fits_the_budget(path: str, head: bytes) -> None:
    async with calling(create_app(Settings(device="cpu", memory_budget_bytes=32 * MIB))) as http:
        limits = (await http.get("/v1/info")).json()["limits"]
        longest = limits["max_json_body_bytes"]
        assert longest == 14 * MIB // 11
        assert limits["max_binary_body_bytes"] == limits["max_output_bytes"] == 14 * MIB
        answer = await http.post(path, content=filled(head, longest), headers=JSON)
        assert answer.status_code == 200
        over = await http.post(path, content=filled(head, longest + 1), headers=JSON)
        assert over.status_code == 413
        assert str(longest) in over.json().get("detail", over.text)


def test_what_is_lowered_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lamina"):
        create_app(Settings(device="cpu", memory_budget_bytes=100 * MIB))
        [told] = caplog.messages
        assert told == (
            "memory_budget_bytes is 104857600, which lowers max_json_body_bytes from 16777216 to "
            "4170472, max_binary_body_bytes from 67108864 to 45875200, max_output_bytes from "
            "268435456 to 45875200"
        )
        create_app(Settings(device="cpu", memory_budget_bytes=1024 * MIB))
        assert len(caplog.messages) == 1
