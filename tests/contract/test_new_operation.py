"""Adding an operation as CONTRIBUTING tells: one file and one word, in a copy of the tree."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("app", "tools", "docs", "openapi", "tests", "README.md", "pyproject.toml")
NEW_OPERATION = '''
"""Counting, to show how an operation is added."""

from app.compute import Estimate
from app.layers import compute_model, tensor_fields
from app.operations._spec import LayerOperation, Task
from app.operations._validation import validated
from pydantic import BaseModel


class CountAnswer(BaseModel):
    """How many numbers came."""

    numbers: int


class CountReader:
    """Reads the requests of one layer."""

    def __init__(self, context, spec):
        self.tensors = tensor_fields(spec)
        self._model = compute_model(spec)

    def read(self, fields):
        call = validated(self._model, fields)
        numbers = 1
        for length in call.input.shape:
            numbers *= length
        return Task(Estimate(), lambda: {"numbers": numbers})


OPERATION = LayerOperation(
    name="count",
    summary=lambda spec: f"How many numbers {spec.name} would be given",
    request=compute_model,
    answer=CountAnswer,
    example=lambda spec: dict(spec.example),
    reader=CountReader,
)
'''
USE = """
import asyncio, httpx
from app.main import create_app

async def use():
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        path = "/v1/layers/max_pool2d/count"
        body = {"input": [[[[1, 2], [3, 4], [5, 6]]]], "kernel_size": 2}
        answer = await http.post(path, json=body)
        assert (answer.status_code, answer.json()) == (200, {"numbers": 6}), answer.text
        assert "decode;dur=" in answer.headers["Server-Timing"]
        wrong = await http.post(path, json={**body, "kernel_size": 0})
        assert wrong.json()["errors"][0]["pointer"] == "#/kernel_size", wrong.text
        assert (await http.get(path)).status_code == 405
        described = (await http.get("/openapi.json")).json()["paths"][path]["post"]
        assert described["operationId"] == "maxPool2dCount"
        assert 'layer="max_pool2d/count"' in (await http.get("/metrics")).text

asyncio.run(use())
"""


def insert(file: Path, behind: str, text: str) -> None:
    """Put text behind the first place of another."""
    before, found, after = file.read_text().partition(behind)
    assert found, behind
    file.write_text(before + found + text + after)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree with the operation's file in it."""
    for name in FILES:
        subprocess.run(["cp", "-r", ROOT / name, tmp_path], check=True)
    (tmp_path / "app/operations/count.py").write_text(NEW_OPERATION)
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process in this folder."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_adding_an_operation_is_one_file_and_one_word(copy: Path) -> None:
    listing = copy / "app/operations/__init__.py"
    insert(listing, "from app.operations import batch, ", "count, ")
    insert(listing, "for module in (layer, ", "count, ")
    done = python(copy, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert python(copy, "-m", "tools.openapi").returncode == 0
    assert "/v1/layers/relu/count" in (copy / "openapi/openapi.json").read_text()


def test_without_the_word_there_is_no_operation(copy: Path) -> None:
    done = python(copy, "-c", USE)
    assert done.returncode != 0
    assert "404" in done.stderr
