"""The service against its own OpenAPI document, by schemathesis: examples, boundaries, random data
that fits the document and random data that does not, and what links there are.

`schemathesis.toml` says what the tool may not hold against the service, and why.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests._serving import serving
from tests._soak import HANGS_S, SOAK, rounds, within_s
from tools.openapi import document

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).parent / "schemathesis.toml"
CASES = 8_000
"""Fewer than the boundaries alone come to."""
LEFT_OUT = re.compile(r"$^" if SOAK else r"[13]d(/|$)")
"""In the short run a layer's one and three dimensions: they share its two dimensions' code."""


@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_the_service_keeps_its_document(tmp_path: Path) -> None:
    paths = document()["paths"]
    operations = sum(len(methods) for path, methods in paths.items() if not LEFT_OUT.search(path))
    with serving() as port:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
                f"http://127.0.0.1:{port}/openapi.json",
                *("--phases", "examples,coverage,fuzzing,stateful", "--mode", "all"),
                *("--max-response-time", str(within_s(2.0)), "--request-timeout", "120"),
                *("--max-examples", str(rounds(25, 1000)), "--continue-on-failure"),
                *(() if SOAK else ("--seed", "0", "--exclude-path-regex", LEFT_OUT.pattern)),
                *("--report", "json", "--report-json-path", str(tmp_path / "report.json")),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-8000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["operations"]["tested"] == operations
    assert report["failures"] == report["errors"] == []
    assert report["test_cases"]["generated"] >= CASES
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}
