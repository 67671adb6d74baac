"""An empty batch is answered in every dtype, with gradients: torch can end the process here."""

import pytest
import torch

from app.compute import Engine
from tests.conftest import compute


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm(engine: Engine, dims: int, training: bool, dtype: str) -> None:
    x = torch.zeros(0, 2, *[3] * dims)
    state = {"running_mean": torch.zeros(2), "running_var": torch.ones(2)}
    body = {"input": x, "training": training, "dtype": dtype, "grad_output": "ones", **state}
    answer = compute(engine, f"batch_norm{dims}d", body)
    assert answer["output"].shape == answer["gradients"]["input"].shape == x.shape
    assert not answer["gradients"]["weight"].any()
