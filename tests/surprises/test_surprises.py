"""Lamina does what the rows say, each of their expectations can fail, and the page is fresh."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from app.compute import Engine
from tests.surprises import test_torch_norms, test_torch_pools
from tests.surprises.checks import Answers, Check, Lacks, Refuses, as_doubles
from tests.surprises.page import PAGE, SURPRISES, page

CHECKS = {
    f"{row.number:02}-{index}": check for row in SURPRISES for index, check in enumerate(row.checks)
}
DANGEROUS = {1, 2, 3, 4}
"""Rows whose calls write outside their memory, allocate gigabytes or take seconds."""


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_lamina_does_what_the_table_says(engine: Engine, check: Check) -> None:
    check(engine)


def spoiled(check: Check) -> Iterator[Check]:
    """The check with each of its expectations, one at a time, made wrong."""
    match check:
        case Answers():
            for path, numbers in check.expected.items():
                yield replace(check, expected={path: other(numbers)}, advice=None)
            if check.advice:
                yield replace(check, advice="no-such-advice")
        case Refuses():
            yield replace(check, pointer="#/elsewhere")
            yield replace(check, code="no-such-code")
        case Lacks():
            yield replace(check, layers=(*check.layers, "max_pool2d"))


def other(numbers: object) -> torch.Tensor:
    """Different numbers of the same shape."""
    return 0.1 - as_doubles(numbers).nan_to_num()


WRONG = {
    f"{name}-{index}": wrong
    for name, check in CHECKS.items()
    for index, wrong in enumerate(spoiled(check))
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_every_expectation_can_fail(engine: Engine, wrong: Check) -> None:
    with pytest.raises(AssertionError):
        wrong(engine)


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `make openapi`"


def test_every_surprise_is_there_stated_and_held() -> None:
    assert [row.number for row in SURPRISES] == list(range(1, 49))
    for row in SURPRISES:
        assert row.checks, row.number
        for text in (row.call, row.torch, row.lamina):
            assert text.strip() == text != ""
            assert "\n" not in text


def test_torch_is_held_to_every_row_that_is_safe_to_run() -> None:
    tests = (*vars(test_torch_pools), *vars(test_torch_norms))
    held = [int(name.split("_")[2]) for name in tests if name.startswith("test_row_")]
    assert sorted(held) == [row.number for row in SURPRISES if row.number not in DANGEROUS]
