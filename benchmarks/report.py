"""What a run found, as Markdown: ratios first."""

import datetime
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "fastapi", "uvicorn", "pydantic", "orjson", "pysimdjson", "litserve",
            "bentoml", "mosec", "ray")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ratio:
    """Lamina's rate to another's: at least `demanded`."""

    work: str
    other: str
    demanded: float
    reached: float

    @property
    def is_reached(self) -> bool:
        return self.reached >= self.demanded


def heading(rounds: int, missing: Sequence[str]) -> str:
    """The machine, the date, the versions."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    absent = f"\n\nLeft out, not installed or not able to run: {', '.join(missing)}." * bool(
        missing
    )
    return (
        "# Benchmarks\n"
        "Written by `make bench`. Ratios are medians over rounds in which every contestant had "
        "its turn; absolute numbers are this machine's.\n\n"
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {rounds} rounds, one client; {', '.join(found)}."
        f"{absent}\n"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def ratio_table(ratios: Iterable[Ratio]) -> str:
    rows = "".join(
        f"| {r.work} | {r.other} | {r.reached:.2f} | {r.demanded:.2f} "
        f"| {'yes' if r.is_reached else '**missed**'} |\n"
        for r in ratios
    )
    return (
        "\n## Lamina's rate to another's\n"
        "| work | other | ratio | at least | reached |\n|---|---|---|---|---|\n" + rows
    )


def rate_table(rates: Mapping[tuple[str, int], Mapping[str, Sequence[float]]]) -> str:
    names = list(dict.fromkeys(name for row in rates.values() for name in row))
    rows = "".join(
        f"| {layer}, {floats:,} | "
        + " | ".join(f"{statistics.median(row[name]):.1f}" if name in row else "" for name in names)
        + " |\n"
        for (layer, floats), row in rates.items()
    )
    return (
        "\n## Requests a second, one client\n"
        "`typed` is the plain service with a response model; `floor` is the same parse, torch "
        "call and dump in a bare loop; `bytes` is safetensors, and for Starlette raw numbers.\n\n"
        f"| work | {' | '.join(names)} |\n|---|{'---|' * len(names)}\n{rows}"
    )


def latency_table(rows: Iterable[Sequence[str]]) -> str:
    body = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        "\n## Latency of max pooling, ms\n"
        "In the open loop from the moment at which a request was due.\n\n"
        "| service | floats | rate | loop | p50 | p95 | p99 |\n|---|---|---|---|---|---|---|\n"
        + body
    )
