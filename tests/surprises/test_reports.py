"""The programs of the bug reports for torch print what the reports say."""

import re

import pytest

from tests.surprises.page import PAGE
from tests.surprises.torch_itself import SURPRISED

pytestmark = [SURPRISED, pytest.mark.usefixtures("two_threads")]

REPORTS = re.findall(
    r"^## ([^`]*?)\n.*?\n```python\n(.*?)```\n\nOutput:\n\n```text\n(.*?)```\n\nExpected: ",
    PAGE.with_name("torch-reports.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_every_report_is_read() -> None:
    assert len(REPORTS) == 9


@pytest.mark.parametrize(("program", "printed"), [report[1:] for report in REPORTS])
def test_the_program_prints_it(
    program: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(program, {})
    assert capsys.readouterr().out == printed
