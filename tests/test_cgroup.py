"""Limits of control groups, as files of both versions."""

from pathlib import Path

import pytest

from app import cgroup

INFINITE = float("inf")
V1, V2 = "4:memory:{0}\n2:cpu,cpuacct:{0}\n", "0::{0}\n"


def limits(tmp_path: Path, own: str, files: dict[str, str]) -> tuple[float, float]:
    """Memory and cores of a process whose groups are `own`."""
    (tmp_path / "own").write_text(own)
    root = tmp_path / "root"
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return cgroup.memory_limit(root, tmp_path / "own"), cgroup.cores(root, tmp_path / "own")


SLICE = {"memory.max": "900", "a.slice/memory.max": "max", "a.slice/b.service/memory.max": "700"}


@pytest.mark.parametrize(
    ("own", "files", "memory", "cores"),
    [
        (V2.format("/"), {"memory.max": "800", "cpu.max": "50000 100000"}, 800, 0.5),
        (V2.format("/a.slice/b.service"), SLICE, 700, INFINITE),
        (V2.format("/a.slice/c.service"), SLICE, 900, INFINITE),
        (V2.format("/a/b/c"), {"a/cpu.max": "1 2", "a/b/cpu.max": "max 2"}, INFINITE, 0.5),
        (V2.format("/docker/not-here"), {"memory.max": "800"}, 800, INFINITE),
        (V2.format("/../../other"), {"memory.max": "800", "cpu.max": "3 1"}, 800, 3),
        (V2.format("/"), {"memory.max": "max", "cpu.max": "max 100000"}, INFINITE, INFINITE),
        (V1.format("/a/b"), {"memory/a/memory.limit_in_bytes": "600"}, 600, INFINITE),
        (
            V1.format("/a/b") + V2.format("/"),
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/a/b/memory.limit_in_bytes": "500",
                "cpu/a/cpu.cfs_quota_us": "150000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            500,
            1.5,
        ),
        (V1.format("/not/here"), {"memory/memory.limit_in_bytes": "400"}, 400, INFINITE),
        (V1.format("/") + V2.format("/a"), {"unified/a/memory.max": "300"}, 300, INFINITE),
        ("", {}, INFINITE, INFINITE),
    ],
)
def test_the_smallest_limit_of_all_groups_counts(
    own: str, files: dict[str, str], memory: float, cores: float, tmp_path: Path
) -> None:
    assert limits(tmp_path, own, files) == (memory, cores)


def test_without_groups_nothing_is_bounded(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert cgroup.memory_limit(nowhere, nowhere) == INFINITE
    assert cgroup.cores(nowhere, nowhere) == INFINITE
