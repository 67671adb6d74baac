"""BentoML, with the numpy input type that its guide on types shows."""

from typing import Any

import bentoml
import numpy as np

from benchmarks.contestants import torch_layers


@bentoml.service  # type: ignore[misc,unused-ignore]
class Layers:
    @bentoml.api  # type: ignore[untyped-decorator,unused-ignore]
    def max_pool2d(self, input: np.ndarray, layer: str) -> dict[str, Any]:  # noqa: A002
        return torch_layers.max_pool2d(input)

    @bentoml.api  # type: ignore[untyped-decorator,unused-ignore]
    def batch_norm2d(self, input: np.ndarray, layer: str) -> dict[str, Any]:  # noqa: A002
        return torch_layers.batch_norm2d(input)
