"""The same answers on a CUDA device as on the CPU; skipped where there is none."""

import pytest
import torch

from app.compute import Engine
from app.layers import LAYERS, LayerSpec
from tests.conftest import LIMITS, compute
from tests.test_contract import OPTIONS, sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("spec", LAYERS.values(), ids=LAYERS)
def test_cuda_agrees_with_the_cpu(engine: Engine, spec: LayerSpec) -> None:
    cuda = Engine("cuda", LIMITS)
    for options in OPTIONS[spec.family]:
        body = {"input": sample(spec), "grad_output": "ones", "explain": True, **options}
        expected, actual = compute(engine, spec, body), compute(cuda, spec, body)
        torch.testing.assert_close(actual["output"], expected["output"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(actual["gradients"], expected["gradients"], rtol=1e-4, atol=1e-5)
