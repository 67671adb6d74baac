"""A memory limit for child processes: a control group, or an address-space limit."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group of either version, in which this process may start children."""

    def __init__(self, path: Path, parent: Path, version: int) -> None:
        self._path = path
        self._parent = parent
        self._version = version

    @property
    def kills(self) -> int:
        """Processes that the kernel killed in it."""
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        found = re.search(r"oom_kill (\d+)", (self._path / name).read_text())
        return int(found[1]) if found else 0

    @property
    def peak_bytes(self) -> int:
        name = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        return int((self._path / name).read_text())

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Children that start meanwhile belong to it, with all their memory."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._parent / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup | None]:
    """A group with this limit; None where this process may not make one."""
    own = {
        line.split(":")[1]: line.split(":")[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
    }
    version = 1 if "memory" in own else 2
    place = ROOT / "memory" if version == 1 else ROOT
    parent = place / own.get("memory", own.get("", "/")).lstrip("/")
    path = parent / f"lamina-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if version == 1 else "memory.max"
    try:
        path.mkdir()
    except OSError:
        yield None
        return
    try:
        try:
            (path / limit).write_text(str(limit_bytes))
            group = MemoryGroup(path, parent, version)
            with group.joined():
                pass
        except OSError:
            yield None
        else:
            yield group
    finally:
        path.rmdir()
