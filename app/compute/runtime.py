"""What torch needs once in each process that computes."""

import ctypes

from app.compute.device import set_threads

MIB = 1 << 20
# The numbers of mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 64 * MIB, M_TRIM_THRESHOLD: 256 * MIB}


def prepare_process() -> None:
    """Set what holds for the whole process, before the app is built; call it on the thread of the
    event loop, which computes only what is too small to share.
    """
    keep_freed_memory()
    set_threads(1)


def keep_freed_memory() -> bool:
    """Let glibc keep freed buffers for the next request; whether this C library can.

    By default it hands large ones back, and the next request pays for every page anew: about a
    quarter of the time of a request of 800,000 numbers.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(parameter, value) for parameter, value in KEPT.items())
