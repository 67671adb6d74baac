"""What each serving process asks of the operating system, and how it leaves."""

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
"""Descriptors beside those of connections: libraries, logs, metrics, connections too many."""


def prepare(max_connections: int) -> None:
    """Say where a crash was, leave no core, have descriptors for every connection, and end with
    the parent of workers.
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
    """Finish what runs when the parent is gone: Linux sends the signal, even after kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGINT)


def leave() -> NoReturn:
    """Exit with 0 once all is done.

    Python would wait for threads that compute what nobody waits for, and take torch apart for
    more than a second.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    os._exit(0)
