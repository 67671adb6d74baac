"""Which device computes, and with how many threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from app import cgroup


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` -> device.

    Raises:
        ValueError: CUDA was asked for and there is none.

    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"no such device; torch finds {count} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """The device's name for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores"


def usable_cores(root: Path = cgroup.ROOT) -> float:
    """Cores that this process may use: its affinity, bounded by the cgroups' quotas."""
    cores = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores, cgroup.cores(root))


def thread_count(threads: int | None, workers: int) -> int:
    """Torch's threads in a process; by default the usable cores shared by the workers."""
    return threads or max(1, int(usable_cores() / workers))


def set_threads(count: int) -> None:
    """Let torch use `count` threads for what the calling thread computes.

    OpenMP counts for each calling thread; torch sets its own count at a thread's first use, which
    asking for it is.
    """
    torch.set_num_threads(count)
    torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """For many small pieces: to share each would take longer, by far where cores are busy."""
    count = torch.get_num_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(count)
