"""The README's curl, sent by curl to a real server, gives the answer that is printed."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests._serving import serving

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as free:
        yield free


def test_the_binary_example_prints_what_it_says(port: int) -> None:
    snippet = README.partition("```python\n")[2].partition("```")[0].replace(":8000", f":{port}")
    printed = re.search(r"^prints `(.*?)`", README, re.MULTILINE)
    assert printed
    done = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == printed[1]


def test_the_open_inference_example_answers(port: int) -> None:
    section = README.partition("connect as they are")[2]
    text = section.partition("```sh\n")[2].partition("```")[0].replace(":8000", f":{port}")
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["data"] == [0, 0, 2]


def test_the_curl_gives_the_printed_answer(port: int) -> None:
    command = re.search(r"^curl .*?\n```", README, re.MULTILINE | re.DOTALL)
    printed = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert command
    assert printed
    text = command[0].removesuffix("```").replace("\\\n", " ")
    words = shlex.split(text.replace(":8000", f":{port}"))
    answer = subprocess.run(words, capture_output=True, check=True).stdout
    expected = json.loads(printed[1])
    assert json.loads(answer) | {"device": "cpu"} == expected
