"""The examples of docs/chains.md answer what the page says."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.compute import chain_advice
from tests._serving import serving

PAGE = (Path(__file__).parents[1] / "docs/chains.md").read_text()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as free:
        yield free


def answer(port: int, path: str) -> Any:
    """What the page's curl to a path answers."""
    found = re.search(rf"^curl -s http://127.0.0.1:8000{path} .*?^```", PAGE, re.M | re.S)
    assert found
    text = found[0].removesuffix("```").replace(":8000", f":{port}")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_training_step_prints_what_it_says(port: int) -> None:
    snippet = PAGE.partition("```python\n")[2].partition("```")[0].replace(":8000", f":{port}")
    printed = re.search(r"^prints `(.*?)`", PAGE, re.M)
    assert printed
    command = [sys.executable, "-c", snippet]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed[1]


def test_the_stem_has_the_numbers_in_the_text(port: int) -> None:
    found = answer(port, "/v1/sequential/shape")
    last = found["layers"][-1]
    assert f"`output_shape` is `{found['output_shape']}`" in PAGE
    assert f"{found['parameters']:,} `parameters`" in PAGE
    assert f"{found['multiply_adds']:,}\n`multiply_adds`" in PAGE
    fields = ("receptive_field", "receptive_field_start", "cumulative_stride")
    first, second, third = (f"`{last[name]}`" for name in fields)
    assert f"they are {first}, {second} and {third}" in PAGE


def test_folding_answers_what_is_printed(port: int) -> None:
    printed = re.search(r"```json\n(.*?)```", PAGE, re.S)
    assert printed
    assert answer(port, "/v1/fold") == json.loads(printed[1])


def test_every_advice_on_placement_is_listed() -> None:
    """And no other."""
    source = Path(chain_advice.__file__).read_text()
    listed = re.findall(r"^\| `([a-z]+-[a-z-]+)` \|", PAGE, re.M)
    assert listed == list(dict.fromkeys(re.findall(r'code="([a-z-]+)"', source)))
