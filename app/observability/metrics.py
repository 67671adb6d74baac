"""Prometheus metrics: histograms by layer, encoding and status class, never by shape."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory that aggregates workers' metrics; `lamina serve --workers` creates one."""
BUCKETS_S = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10, 30)
FLUSH_S = 0.05
PHASES = ("queue", "decode", "compute", "encode")


class PhaseTimings(NamedTuple):
    """The time that one request spent in each phase, in ms."""

    queue: float
    decode: float
    compute: float
    encode: float

    def header(self) -> tuple[bytes, bytes]:
        """The `Server-Timing` header."""
        return b"server-timing", (
            f"queue;dur={self.queue:.3f}, decode;dur={self.decode:.3f}, "
            f"compute;dur={self.compute:.3f}, encode;dur={self.encode:.3f}"
        ).encode()


class Totals(NamedTuple):
    """A number of events and their total duration."""

    number: int = 0
    seconds: float = 0.0


GAUGES = {
    "in_flight_requests": "Requests received and not answered yet.",
    "queued_requests": "Requests waiting for memory or a turn.",
    "reserved_bytes": "Memory reserved by requests, in bytes.",
    "memory_budget_bytes": "Limit on the memory reserved by requests, in bytes.",
    "device_memory_bytes": "Memory of tensors on the accelerator, in bytes.",
}


class Metrics:
    """Records requests, across all workers.

    Requests are appended to a list, which costs next to nothing, and added to the histograms a
    little later, when `loads` also provides the values of the gauges.
    """

    def __init__(self, loads: Callable[[], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        self._loads = loads
        self._gauges = {
            name: Gauge(
                f"lamina_{name}", text, registry=self._registry, multiprocess_mode="livesum"
            )
            for name, text in GAUGES.items()
        }
        self._shed = Counter(
            "lamina_shed_requests",
            "Requests given up before they were answered, by error code.",
            ("reason",),
            registry=self._registry,
        )
        self._denied = Counter(
            "lamina_denied_requests",
            "Requests rejected before they were read, by error code.",
            ("reason",),
            registry=self._registry,
        )
        self._requests = Histogram(
            "lamina_request_seconds",
            "Time from the request's body to the answer, in seconds.",
            ("layer", "encoding", "status"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._phases = Histogram(
            "lamina_phase_seconds",
            "Time of answered requests per phase, in seconds.",
            ("layer", "encoding", "phase"),
            registry=self._registry,
            buckets=BUCKETS_S,
        )
        self._last = Gauge(
            "lamina_last_answer_timestamp_seconds",
            "Time of a layer's last answer, in seconds since the epoch.",
            ("layer", "encoding"),
            registry=self._registry,
            multiprocess_mode="max",
        )
        if MULTIPROCESS not in os.environ:  # with several workers, only one would be reported
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        self._children: dict[tuple[object, ...], Histogram] = {}
        self._noted: list[tuple[str, str, int, PhaseTimings | float]] = []
        self._flushing = False

    def begun(self) -> None:
        """Record that a request has arrived; every worker's `/metrics` soon reflects it."""
        self._flush_soon()

    def answered(self, layer: str, encoding: str, spent: PhaseTimings) -> None:
        """Record a successful request."""
        self._note(layer, encoding, 200, spent)

    def refused(self, layer: str, encoding: str, status: int, took_ms: float) -> None:
        """Record a request that ended in an error."""
        self._note(layer, encoding, status, took_ms)

    def shed(self, reason: str) -> None:
        """Count a request that was abandoned by the service or by its client."""
        self._shed.labels(reason).inc()
        self._flush_soon()

    def denied(self, reason: str) -> None:
        """Count a request that was denied access."""
        self._denied.labels(reason).inc()

    def text(self) -> bytes:
        """All metrics, in the Prometheus text format."""
        return generate_latest(self._all())

    def totals(self, encoding: str) -> dict[str, dict[str, Totals]]:
        """Totals for one encoding, by layer, and then by phase and by status class."""
        found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for sample in self._samples():
            labels = sample.labels
            if labels.get("encoding") == encoding and sample.name.endswith(("_count", "_sum")):
                key = labels.get("phase") or labels["status"]
                found[labels["layer"]][key][sample.name.rpartition("_")[2]] = sample.value
        return {
            layer: {key: Totals(int(v["count"]), v["sum"]) for key, v in parts.items()}
            for layer, parts in found.items()
        }

    def last_answers(self, encoding: str) -> dict[str, float]:
        """When each layer last answered in an encoding, as Unix timestamps."""
        return {
            sample.labels["layer"]: sample.value
            for sample in self._samples()
            if sample.name == "lamina_last_answer_timestamp_seconds"
            and sample.labels["encoding"] == encoding
        }

    def _note(self, layer: str, encoding: str, status: int, spent: PhaseTimings | float) -> None:
        self._flush_soon()
        self._noted.append((layer, encoding, status, spent))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush_again)

    def _flush_again(self) -> None:
        """Flush, and repeat while requests are in flight, so that gauges return to zero."""
        self._flushing = False
        if self.flush()["in_flight_requests"]:
            self._flush_soon()

    def flush(self) -> Mapping[str, int]:
        """Add recorded requests to the histograms, and set the gauges; return their values."""
        noted, self._noted = self._noted, []
        answered = set()
        for layer, encoding, status, spent in noted:
            took_ms = sum(spent) if isinstance(spent, PhaseTimings) else spent
            label = f"{status // 100}xx"
            self._child(self._requests, layer, encoding, label).observe(took_ms / 1e3)
            if isinstance(spent, PhaseTimings):
                for phase, part_ms in zip(PHASES, spent, strict=True):
                    self._child(self._phases, layer, encoding, phase).observe(part_ms / 1e3)
                answered.add((layer, encoding))
        for labels in answered:
            self._last.labels(*labels).set(time.time())
        loads = self._loads()
        for name, value in loads.items():
            self._gauges[name].set(value)
        return loads

    def _child(self, histogram: Histogram, *labels: str) -> Histogram:
        """The histogram with these labels, cached because lookup costs more than use."""
        key = (histogram, *labels)
        if key not in self._children:
            self._children[key] = histogram.labels(*labels)
        return self._children[key]

    def _samples(self) -> Iterator[Sample]:
        for metric in self._all().collect():
            yield from metric.samples

    def _all(self) -> CollectorRegistry:
        self.flush()
        if MULTIPROCESS not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
