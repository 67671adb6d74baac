"""How long the tests of reliability run: briefly each time, in full with `SOAK=1`."""

import os

SOAK = os.environ.get("SOAK") == "1"


def rounds(fast: int, soak: int) -> int:
    """How often to repeat: `fast` in the normal suite, `soak` in the long one."""
    return soak if SOAK else fast
