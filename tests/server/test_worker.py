"""What a serving process does before it builds the app."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from app.compute.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    bytearray(40 << 20)
before = faults()
for _ in range(10):
    bytearray(40 << 20)
print(faults() - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide alone")
def test_freed_buffers_are_kept_for_the_next_request() -> None:
    assert page_faults("keep") * 10 < page_faults("default")
