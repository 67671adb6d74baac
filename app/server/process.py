"""Operating-system setup of each serving process, and its exit."""

import atexit
import ctypes
import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1
SPARE_FILES = 512
"""File descriptors besides `max_connections`: libraries, logs, metrics, excess connections."""


def prepare(max_connections: int) -> None:
    """Set up crash tracebacks, disable core dumps, raise the file limit to fit every connection,
    and, in a worker, shut down with the parent.
    """
    faulthandler.enable()
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    _raise_files(max_connections + SPARE_FILES)
    if (parent := multiprocessing.parent_process()) is not None:
        _end_with(parent.pid)


def _raise_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _end_with(parent: int | None) -> None:
    """Drain when the parent dies: on Linux, the kernel sends SIGINT, even after `kill -9`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGINT)


def leave() -> NoReturn:
    """Exit with 0, skipping the interpreter's finalization.

    Finalization would wait for threads whose results are no longer needed, and spend more than a
    second tearing down torch.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    os._exit(0)
