"""Choice of device and number of threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from app import cgroup


def choose_device(name: str) -> torch.device:
    """Parse `auto`, `cpu`, `cuda`, or `cuda:1`.

    Raises:
        ValueError: CUDA was requested and is not available.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"no such device; torch finds {count} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """The device's human-readable name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores"


def usable_cores(root: Path = cgroup.ROOT) -> float:
    """Number of cores this process may use: its CPU affinity, capped by the cgroup quotas."""
    cores = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores, cgroup.cores(root))


def thread_count(threads: int | None, workers: int) -> int:
    """Torch threads per process; by default, the usable cores divided among the workers."""
    return threads or max(1, int(usable_cores() / workers))


def set_threads(count: int) -> None:
    """Set the number of threads torch uses for work started from the calling thread.

    OpenMP keeps this setting per calling thread. Torch applies its own count on a thread's
    first use, and `get_num_threads` counts as a first use.
    """
    torch.set_num_threads(count)
    torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Use a single thread, for work in many small pieces.

    Sharing each piece between threads would be slower, and much slower when the cores are busy.
    """
    count = torch.get_num_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(count)
