"""Setup of torch, once in each process that computes."""

import ctypes

from app.compute.device import set_threads

MIB = 1 << 20
# The numbers of mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 64 * MIB, M_TRIM_THRESHOLD: 256 * MIB}


def prepare_process() -> None:
    """Apply process-wide settings. Call this before the app is built, on the event loop's thread,
    which computes only requests too small to share between threads.
    """
    keep_freed_memory()
    set_threads(1)


def keep_freed_memory() -> bool:
    """Let glibc keep freed buffers for the next request; return whether this C library can.

    By default, glibc returns large buffers to the system, and the next request has to fault in
    every page again: about a quarter of the time of a request with 800,000 numbers.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(parameter, value) for parameter, value in KEPT.items())
