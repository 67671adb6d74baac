"""Which device computes, and with how many threads."""

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


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
        raise ValueError(f"expected a device that exists; torch sees {count} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """The device's name for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores"


def usable_cores(cgroup: Path = CGROUP) -> float:
    """Cores that this process may use: its affinity, bounded by the cgroup's quota."""
    cores = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores, _quota(cgroup))


def _quota(cgroup: Path) -> float:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return float("inf")
    return float("inf") if quota in ("max", "-1") else int(quota) / int(period)


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
