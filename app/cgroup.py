"""What the control groups of this process allow it: memory, and time of the processor.

Every group from the process's own up to the root bounds it, in both versions of control groups.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_NONE = float("inf")


def memory_limit(root: Path = ROOT, own: Path = OWN) -> float:
    """The smallest limit, bytes; infinite where there is none."""
    names = ("memory.max", "memory.limit_in_bytes")
    return min((_number(text) for text in _texts(root, own, "memory", *names)), default=_NONE)


def cores(root: Path = ROOT, own: Path = OWN) -> float:
    """The smallest quota, in processors; infinite where there is none."""
    pairs = [text.split() for text in _texts(root, own, "cpu", "cpu.max")]
    quotas = _texts(root, own, "cpu", "cpu.cfs_quota_us")
    periods = _texts(root, own, "cpu", "cpu.cfs_period_us")
    pairs += [list(pair) for pair in zip(quotas, periods, strict=False)]
    return min((_number(quota) / _number(period) for quota, period in pairs), default=_NONE)


def _number(text: str) -> float:
    return _NONE if text in ("max", "-1") else float(text)


def _texts(root: Path, own: Path, controller: str, *names: str) -> Iterator[str]:
    """What these files say, wherever there are any."""
    for folder in _folders(root, own, controller):
        for name in names:
            with suppress(OSError):
                yield (folder / name).read_text().strip()


def _folders(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Of the groups, the process's own first. In a container there may be the root alone, whatever
    the process's own is called outside.
    """
    for base, path in _places(root, own, controller):
        if ".." not in path.parts:
            yield from (base / part for part in (path, *path.parents))
    yield from (root, root / controller)


def _places(root: Path, own: Path, controller: str) -> Iterator[tuple[Path, Path]]:
    """Where a hierarchy is mounted, and the process's path in it."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            relative = Path(path.lstrip("/"))
            if controller in controllers.split(","):
                yield root / controller, relative
            elif not controllers:
                yield root, relative
                yield root / "unified", relative
