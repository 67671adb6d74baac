"""The same answers on a CUDA device as on the CPU; skipped where there is none."""

import pytest
import torch

from app.compute import Engine
from app.layers import LAYERS, LayerSpec
from tests.conftest import LIMITS, compute

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_cuda_agrees_with_the_cpu(engine: Engine, spec: LayerSpec) -> None:
    cuda = Engine("cuda", LIMITS)
    for case in spec.cases:
        body = {**case.body, "explain": True}
        expected, actual = compute(engine, spec, body), compute(cuda, spec, body)
        for part in {spec.result, "gradients"} & expected.keys():
            torch.testing.assert_close(actual[part], expected[part], rtol=1e-5, atol=1e-5)
