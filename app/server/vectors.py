"""`lamina vectors`: writes golden vectors to files, or replays such files, in process.

Exit codes: 0, done, or every case within its tolerance; 1, a case is not; 2, it could not be done.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from app.codecs import CODECS, JSON
from app.compute import Engine
from app.compute.device import set_threads
from app.errors import RequestError
from app.layers import LAYERS
from app.operations import COMPUTE, Context, nearest
from app.operations.vectors import build
from app.scheduling import finished
from app.settings import Settings
from app.vector_files import (
    Unreachable,
    UnreadableSet,
    VectorSet,
    over_http,
    replay,
    write,
)

DEFAULT_FORMATS = ("json", "safetensors")
EVERY = "all"
WIDTH = 30
QUIET_S = 1.0
"""Work shorter than this shows no progress bar."""


class _WrongCommandError(Exception):
    """What was asked cannot be done; the message says what to do instead."""


def run(flags: Mapping[str, Any]) -> int:
    """Do what the flags say; return the exit code."""
    try:
        if flags["verify"] is not None:
            return _verify(Path(flags["verify"]), flags["url"])
        return _write(flags)
    except (_WrongCommandError, UnreadableSet, Unreachable, RequestError, OSError) as error:
        print(f"lamina vectors: {error}", file=sys.stderr)
        return 2


def _engine() -> Engine:
    set_threads(1)
    return Engine("cpu", Settings().limits)


def _write(flags: Mapping[str, Any]) -> int:
    layers: list[str] = flags["layers"]
    if not layers or flags["out"] is None:
        raise _WrongCommandError("expected layers and --out DIR, or --verify DIR")
    if layers == [EVERY]:
        layers = list(LAYERS)
    for name in layers:
        if name not in LAYERS:
            raise _WrongCommandError(f"no layer is named {name[:64]}; {nearest(name, LAYERS)}")
    asked = {name: flags[name] for name in ("seed", "count", "dtype", "convention")}
    asked = {name: value for name, value in asked.items() if value is not None}
    engine = _engine()
    per_layer = asked.get("count", 16)
    show = _progress(per_layer * len(layers), sys.stderr)
    sets = []
    for name in layers:
        cases = []
        for case in build(engine, LAYERS[name], **asked):
            cases.append(case)
            show(name)
        dtype = asked.get("dtype", "float32")
        sets.append(VectorSet(name, asked.get("seed", 0), dtype, tuple(cases)))
    formats = [flags["format"]] if flags["format"] else DEFAULT_FORMATS
    try:
        count = write(Path(flags["out"]), sets, formats, asked.get("seed", 0))
    except ModuleNotFoundError as error:
        raise _WrongCommandError(
            f"{error.name} is not installed; `pip install 'lamina[{error.name}]'`"
        ) from None
    print(f"{count} files in {flags['out']}")
    return 0


def _verify(folder: Path, url: str | None) -> int:
    ask = over_http(url) if url else _in_process()
    cases = failed = 0
    for done in replay(folder, ask):
        cases += 1
        failed += bool(done.failures)
        for failure in done.failures:
            where = f"{failure.layer}/{failure.case}"
            print(f"FAIL {where}{' ' if failure.tensor else ''}{failure.tensor}: {failure.reason}")
    print(f"{cases - failed} of {cases} cases are within their tolerance")
    return 1 if failed else 0


def _in_process() -> Callable[[str, bytes], tuple[int, bytes]]:
    """Answer requests here, as the service would."""
    context = Context(_engine(), LAYERS, lambda error: {"detail": str(error)})
    readers = {name: COMPUTE.reader(context, spec) for name, spec in LAYERS.items()}
    codec = CODECS[JSON]
    limits = context.engine.limits.requests

    def ask(path: str, body: bytes) -> tuple[int, bytes]:
        name = path.rpartition("/")[2]
        if name not in readers:
            return 404, b'{"detail": "no layer has that name"}'
        reader = readers[name]
        try:
            fields = codec.decode(
                body, reader.tensors, max_rank=limits.max_rank, max_list=limits.max_replicas
            )
            task = reader.read(fields)
            answer = codec.encode(finished(task.work()), encoding=task.encoding)
        except RequestError as error:
            return 422, b"".join(codec.encode(context.refusal(error)))
        return 200, b"".join(answer)

    return ask


def _progress(total: int, stream: TextIO) -> Callable[[str], None]:
    """A bar on a terminal, once the work has taken a while; the call counts one case."""
    steps: Iterator[int] = iter(range(1, total + 1))
    begun = time.monotonic()

    def show(name: str) -> None:
        done = next(steps)
        if not stream.isatty() or time.monotonic() - begun < QUIET_S:
            return
        bar = "#" * (WIDTH * done // total)
        end = "\n" if done == total else ""
        stream.write(f"\r[{bar:<{WIDTH}}] {done}/{total} {name:<24}{end}")
        stream.flush()

    return show
