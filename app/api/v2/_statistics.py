"""Counts and times of inferences by model, as the protocol's clients read them."""

import time
from dataclasses import dataclass, field
from typing import Any

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Statistics:
    """What one model has done in this process."""

    name: str
    last_inference_ms: int = 0
    counts: dict[str, list[int]] = field(
        default_factory=lambda: {name: [0, 0] for name in DURATIONS}
    )

    def add(self, **durations_ms: float) -> None:
        """One inference: how long each of its parts took."""
        for name, spent in durations_ms.items():
            entry = self.counts[name]
            entry[0] += 1
            entry[1] += int(spent * 1e6)
        self.last_inference_ms = int(time.time() * 1e3)

    def card(self) -> dict[str, Any]:
        """The model's entry in the protocol's `model_stats`."""
        count = self.counts["success"][0]
        return {
            "name": self.name,
            "version": "1",
            "last_inference": self.last_inference_ms,
            "inference_count": count,
            "execution_count": count,
            "inference_stats": {
                name: {"count": entry[0], "ns": entry[1]} for name, entry in self.counts.items()
            },
            "batch_stats": [],
        }
