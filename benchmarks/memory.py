"""`make memory`: the memory of an idle worker, and what each of its parts adds.

Everything is loaded in this process, one part after another. RSS counts all pages, PSS shares each
page among the processes that map it, and USS counts those that no other process maps. Then real
servers are started, and their processes listed.
"""

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module

import psutil

MIB = 1 << 20
LIBRARIES = (
    "fastapi", "uvicorn", "uvloop", "httptools", "numpy", "orjson", "simdjson", "pydantic_settings",
    "structlog", "prometheus_client", "limits", "asgi_correlation_id",
)  # fmt: skip
MOST_NAMED = 4
SETTLED_S = 3
"""A server whose memory does not change for so long has started."""
Sizes = tuple[float, float, float]


def sizes(process: psutil.Process) -> Sizes:
    """RSS, PSS and USS, MiB."""
    found = process.memory_full_info()
    return found.rss / MIB, found.pss / MIB, found.uss / MIB


def parts() -> Iterator[tuple[str, Callable[[], object]]]:
    """What a worker consists of, and how to load it."""
    yield "Python", int
    yield "FastAPI, NumPy, other libraries", lambda: [import_module(name) for name in LIBRARIES]
    yield "torch", lambda: import_module("torch")
    yield "Lamina's modules", lambda: import_module("app.server.worker")

    from benchmarks.in_process import Lamina  # it imports torch

    lamina: list[Lamina] = []
    yield "its app", lambda: lamina.append(Lamina())
    yield "start of the app", lambda: lamina[0].__enter__()


def servers(workers: int) -> Iterator[tuple[str, Sizes]]:
    """The processes of a server that has just started."""
    from benchmarks.contestants import LAMINA
    from benchmarks.services import start

    command = (*LAMINA.command, "--workers", str(workers))
    with ExitStack() as stack:
        ((service,), _) = start(stack, [replace(LAMINA, command=command)], None)
        known: list[Sizes] = []
        while known != (known := [sizes(process) for process in service.tree()]):
            time.sleep(SETTLED_S)
        for process, found in zip(service.tree(), known, strict=True):
            yield f"`lamina serve --workers {workers}`: {_kind(process, workers)}", found


def _kind(process: psutil.Process, workers: int) -> str:
    words = " ".join(process.cmdline())
    if "resource_tracker" in words:
        return "multiprocessing's resource tracker"
    return "parent" if workers > 1 and "app.server.cli" in words else "worker"


def main() -> None:
    own, before, modules = psutil.Process(), (0.0, 0.0, 0.0), set[str]()
    print("| part | RSS, MiB | PSS | USS | added RSS | modules |\n|---|---|---|---|---|---|")
    for name, load in parts():
        load()
        gc.collect()
        now, names = sizes(own), set(sys.modules)
        tops = Counter(module.partition(".")[0] for module in names - modules)
        shown = ", ".join(f"{top} {count}" for top, count in tops.most_common(MOST_NAMED))
        numbers = " | ".join(f"{size:.0f}" for size in (*now, now[0] - before[0]))
        print(f"| {name} | {numbers} | {shown} |")
        before, modules = now, names
    print("\n| process | RSS, MiB | PSS | USS |\n|---|---|---|---|")
    for workers in (1, 2):
        for name, found in servers(workers):
            print(f"| {name} | {' | '.join(f'{size:.0f}' for size in found)} |")


if __name__ == "__main__":
    main()
