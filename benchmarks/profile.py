"""`make profile`: how a request's processor time divides among its parts, without sockets.

A timer around each function in `PARTS` measures the time that it spends outside the others; the
cost of the timers is measured and subtracted. cProfile would inflate small functions. Requests run
one at a time, so the process's time is that of the request, on whichever thread. The shares are
those of the timed run; the microseconds are these shares of a run without timers.
"""

import argparse
import importlib
import inspect
import os
import statistics
from collections.abc import Callable
from operator import attrgetter
from time import process_time as clock
from typing import Any, cast

from app.layers import LAYERS
from benchmarks.contestants import LAMINA
from benchmarks.in_process import Lamina
from benchmarks.services import cores
from benchmarks.works import Work

WORKS = (
    Work("max_pool2d", 16),
    Work("batch_norm2d", 16),
    Work("max_pool2d", 24_576, "bytes"),
    Work("batch_norm2d", 24_576, "bytes"),
)
_steps = "check_body take_body take_reading take_result run_codec compute lap_ms end_turn close"
_claim = [f"scheduling.claims:Claim.{name}" for name in _steps.split()]
PARTS = {
    "engine: gradients": ["compute.engine:input_gradients"],
    "engine: inputs": ["compute.load:Loader.inputs", "compute.load:Loader.output_gradients"],
    "engine: forward": [],  # the layer's own `run`
    "engine: packing": ["compute.engine:laid_out", "compute.engine:packed"],
    "engine: the rest": ["compute.engine:Engine.run"],
    "decode": ["codecs.json:decode", "codecs.safetensors:decode"],
    "validate": ["operations.layer:validated"],
    "plan": ["compute.engine:Engine.plan"],
    "encode": ["codecs.json:encode", "codecs.safetensors:encode"],
    "Accept, Content-Type": ["api.rest:Rest.wire", "api.rest:Rest.encoding"],
    "admission": ["scheduling.claims:Admission.claim", *_claim],
    "body": ["api.pipeline:read_body", "api.pipeline:headers_of"],
    "metrics": [f"observability.metrics:Metrics.{name}" for name in ("begun", "answered", "flush")],
    "log": ["observability.access_log:AccessLog._flush"],
    "pipeline": ["api.layers:FastPath.__call__"],
    "middleware": ["api.pipeline:send_answer"],  # and the whole app
}
"""Functions below `app` by part; a part's functions may call those of another."""
ROUND_S = 0.03


class Timers:
    """The time that each part has spent, s."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._inner: list[float] = []
        self._inside_s = self._cost_s = 0.0
        self._measure_own_cost()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*values: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            begun = clock()
            try:
                return function(*values, **named)
            finally:
                self._end(part, begun)

        async def timed_async(*values: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            begun = clock()
            try:
                return await function(*values, **named)
            finally:
                self._end(part, begun)

        return timed_async if inspect.iscoroutinefunction(function) else timed

    def _end(self, part: str, begun: float) -> None:
        took = clock() - begun
        self.spent[part] += took - self._inner.pop() - self._inside_s
        if self._inner:
            self._inner[-1] += took + self._cost_s

    def _measure_own_cost(self) -> None:
        """What a timer adds to the function that it times, and to the one that calls that."""
        count, part = 20_000, "plan"
        timed = self.around(part, int)
        begun = clock()
        for _ in range(count):
            timed()
        self._inside_s = self.spent[part] / count
        self._cost_s = (clock() - begun) / count - self._inside_s
        self.spent[part] = 0.0


def install(timers: Timers, lamina: Lamina) -> None:
    """Put timers around all parts."""
    for part, places in PARTS.items():
        for place in places:
            module, _, path = place.partition(":")
            owner, _, name = path.rpartition(".")
            try:
                found: Any = importlib.import_module(f"app.{module}")
                found = attrgetter(owner)(found) if owner else found
                setattr(found, name, timers.around(part, getattr(found, name)))
            except (AttributeError, ImportError):
                print(f"{place} is gone: its time counts with what calls it")
    for name in {work.layer for work in WORKS}:
        spec = LAYERS[name]
        object.__setattr__(spec, "run", timers.around("engine: forward", spec.run))  # frozen
    lamina.app = timers.around("middleware", cast("Any", lamina.app).__call__)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.profile")
    parser.add_argument("--rounds", type=int, default=60, help="short ones; their medians count")
    some = range(parser.parse_args().rounds)
    os.sched_setaffinity(0, {cores()[1]})  # as in the benchmark
    with Lamina() as lamina:
        requests = {work: work.request(LAMINA) for work in WORKS}
        counts = {w: int(ROUND_S / lamina.seconds(r, 100)[1]) + 1 for w, r in requests.items()}
        bare = {
            work: statistics.median(lamina.seconds(request, counts[work])[1] for _ in some)
            for work, request in requests.items()
        }
        timers = Timers()
        install(timers, lamina)
        for work, request in requests.items():
            spent, timed = [], []
            for _ in some:
                timers.spent = dict.fromkeys(PARTS, 0.0)
                timed.append(lamina.seconds(request, counts[work])[1])
                spent.append(timers.spent)
            medians = {part: statistics.median(one[part] for one in spent) for part in PARTS}
            whole_us, with_us = bare[work] * 1e6, statistics.median(timed) * 1e6
            print(f"\n{work}: {whole_us:.0f} us, with timers {with_us:.0f} us")
            for part, spent_s in medians.items():
                share = spent_s / sum(medians.values())
                print(f"  {part:24} {share:6.1%} {share * whole_us:7.1f} us")


if __name__ == "__main__":
    main()
