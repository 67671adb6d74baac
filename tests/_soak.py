"""How long the tests of reliability run, and how exact their times are: `SOAK=1` says in full.

In the normal suite a time only tells one outcome from another that would come minutes later, so
that no test fails because the machine is busy.
"""

import os

import pytest

SOAK = os.environ.get("SOAK") == "1"


def rounds(fast: int, soak: int) -> int:
    """How often to repeat: `fast` in the normal suite, `soak` in the long one."""
    return soak if SOAK else fast


def within_s(soak_s: float) -> float:
    """How late something may be: so much on an idle machine, a minute on a busy one."""
    return soak_s if SOAK else max(60.0, soak_s)


MEASURES = pytest.mark.skipif(not SOAK, reason="measures time, for an idle machine: make soak")
HANGS_S = rounds(900, 4 * 3600)
"""The timeout of tests that take longer than most, `@pytest.mark.timeout(HANGS_S)`."""
