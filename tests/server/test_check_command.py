"""`lamina check`: exit codes, what it prints, and both kinds of files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from app.server.check import INVALID, MATCH, NO_MATCH, check

POOL = {"input": [[[1, 2, 3]]], "kernel_size": 2}
RIGHT = {"layer": "max_pool1d", "request": POOL, "expected": {"output": [[[2]]]}}
CEIL = {**RIGHT, "expected": {"output": [[[2, 3]]]}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def written(file: Path, body: Any) -> str:
    file.write_text(json.dumps(body))
    return str(file)


def test_a_match_ends_with_0(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(written(file, RIGHT), as_json=False) == MATCH
    assert capsys.readouterr().out == "output: matches\nEverything matches the reference.\n"


def test_a_mismatch_ends_with_1_and_says_why(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(written(file, CEIL), as_json=False) == NO_MATCH
    printed = capsys.readouterr().out
    assert "output: 2 of 2 differ" in printed
    assert "1. Your output size is rounded up" in printed
    assert '{"ceil_mode": true}' in printed
    assert "hypotheses." in printed


def test_json_is_the_answer_of_the_service(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(written(file, CEIL), as_json=True) == NO_MATCH
    answer = json.loads(capsys.readouterr().out)
    assert answer["diagnosis"][0]["options"] == {"ceil_mode": True}


def test_values_that_differ_are_shown(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**RIGHT, "expected": {"output": [[[7]]]}}
    assert check(written(file, wrong), as_json=False) == NO_MATCH
    printed = capsys.readouterr().out
    assert "first at [0, 0, 0]: yours 7.0, reference 2.0" in printed
    assert "Nothing that was tried explains all of the difference." in printed


def test_a_safetensors_file_is_read(file: Path) -> None:
    x = np.array([1, -1], np.float32)
    metadata = {"request": json.dumps({"layer": "relu"})}
    file.write_bytes(save({"request.input": x, "expected.output": np.maximum(x, 0)}, metadata))
    assert check(str(file), as_json=False) == MATCH


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected JSON, or a safetensors file"),
        ("{", "expected JSON, or a safetensors file"),
        ("[1]", "expected JSON, or a safetensors file"),
        ("{}", "expected the name of a layer"),
        ('{"layer": "max_pol1d"}', "did you mean max_pool"),
        ('{"layer": "relu", "request": {"input": [1]}}', "#/expected"),
        ('{"layer": "relu", "request": {"input": [1]}, "expected": {"x": [1]}}', "#/expected/x"),
    ],
)
def test_what_is_no_check_ends_with_2(
    file: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file.write_text(text)
    assert check(str(file), as_json=False) == INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_a_file_that_is_not_there_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("/nowhere/at/all", as_json=False) == INVALID
    assert "No such file" in capsys.readouterr().err


def test_the_command_reads_stdin() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.server.cli", "check", "-", "--json"],
        input=json.dumps(CEIL),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["match"] is False
