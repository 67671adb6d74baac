"""Inference counts and durations per model, in the protocol's format."""

from collections.abc import Iterable
from typing import Any

from app.observability.metrics import Metrics, Totals

ENCODING = "open_inference"
PARTS = {
    "success": "2xx",
    "queue": "queue",
    "compute_input": "decode",
    "compute_infer": "compute",
    "compute_output": "encode",
}


def model_stats(metrics: Metrics, models: Iterable[str]) -> dict[str, Any]:
    """The response to a statistics request."""
    totals, last = metrics.totals(ENCODING), metrics.last_answers(ENCODING)
    return {
        "model_stats": [
            _card(name, totals.get(name, {}), int(last.get(name, 0) * 1e3)) for name in models
        ]
    }


def _card(name: str, totals: dict[str, Totals], last_inference_ms: int) -> dict[str, Any]:
    parts = {part: totals.get(ours, Totals()) for part, ours in PARTS.items()}
    failed = [totals.get(status, Totals()) for status in ("4xx", "5xx")]
    parts["fail"] = Totals(sum(f.number for f in failed), sum(f.seconds for f in failed))
    return {
        "name": name,
        "version": "1",
        "last_inference": last_inference_ms,
        "inference_count": parts["success"].number,
        "execution_count": parts["success"].number,
        "inference_stats": {
            part: {"count": total.number, "ns": int(total.seconds * 1e9)}
            for part, total in parts.items()
        },
        "batch_stats": [],
    }
