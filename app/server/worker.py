"""What each serving process does before it builds the app."""

import ctypes
import logging

from starlette.types import ASGIApp

from app.main import create_app
from app.settings import Settings

MIB = 1 << 20
# The numbers of mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: 64 * MIB, M_TRIM_THRESHOLD: 256 * MIB}


def build(settings: Settings) -> ASGIApp:
    """The app of one serving process."""
    logging.captureWarnings(True)
    keep_freed_memory()
    return create_app(settings)


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
