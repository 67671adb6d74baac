"""All scenarios."""

from tests.oracle import (
    rows_mixed,
    rows_norm_faults,
    rows_norms,
    rows_pool_faults,
    rows_pools,
    rows_reports,
    rows_right,
    rows_subsets,
)
from tests.oracle._scenario import Scenario

ROWS: tuple[Scenario, ...] = (
    *rows_pools.ROWS, *rows_norms.ROWS, *rows_pool_faults.ROWS, *rows_norm_faults.ROWS,
    *rows_mixed.ROWS, *rows_subsets.ROWS, *rows_reports.ROWS, *rows_right.ROWS,
)  # fmt: skip
