"""The rows as a page of the docs."""

from pathlib import Path

from tests.surprises import lp_pooling, norms, pooling, precision, strides, windows
from tests.surprises.checks import Surprise

PAGE = Path(__file__).parents[2] / "docs/surprises.md"
TABLES = (windows, pooling, lp_pooling, norms, precision, strides)
SURPRISES: tuple[Surprise, ...] = tuple(
    sorted((row for table in TABLES for row in table.ROWS), key=lambda row: row.number)
)


def page() -> str:
    """The whole page."""
    rows = "".join(
        f"| {row.number} | `{row.call}` | {row.torch} | {row.lamina} |\n".replace("\n ", " ")
        for row in SURPRISES
    )
    return (
        "# Surprising behaviors of torch, and what Lamina does instead\n"
        "Generated from `tests/surprises`, which tests every row.\n"
        "[torch-reports.md](torch-reports.md) has programs that reproduce those that are bugs.\n\n"
        f"| # | call | torch 2.13 on a CPU | Lamina |\n|---|---|---|---|\n{rows}"
    )
