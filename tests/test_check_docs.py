"""The reports in `docs/check.md` give the diagnoses that are printed below them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.faults import FAULTS
from app.operations.check import OPTIONS
from app.server.check import checked

PAGE = (Path(__file__).parents[1] / "docs/check.md").read_text()
BLOCKS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
REPORTS = [(block, BLOCKS[number + 1]) for number, block in enumerate(BLOCKS) if "layer" in block]


def diagnosis(body: Any) -> Any:
    return json.loads(json.dumps(checked(bytearray(json.dumps(body).encode()))["diagnosis"]))


@pytest.mark.parametrize("number", range(4))
def test_a_report_is_diagnosed_as_printed(number: int) -> None:
    body, printed = REPORTS[number]
    found = diagnosis(body)
    assert [{name: one.get(name) for name in printed} for one in found] == [printed]


def test_the_first_call_is_diagnosed_as_printed() -> None:
    curl = re.search(r"/v1/layers/(\w+)/check.*?-d '(.*?)'\n```", PAGE, re.DOTALL)
    assert curl
    (one,) = diagnosis({"layer": curl[1], **json.loads(curl[2])})
    assert {name: one[name] for name in BLOCKS[0]} == BLOCKS[0]


def test_there_are_four_reports_and_a_place_for_every_link() -> None:
    assert len(REPORTS) == 4
    for name in {"convention", *(o.name for o in OPTIONS), *(fault.name for fault in FAULTS)}:
        assert f'<a id="{name}"></a>' in PAGE, name
