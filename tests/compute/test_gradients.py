"""Gradients taken past torch's own checks are those that `torch.autograd.grad` gives."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch

from app.compute import Engine
from app.compute._names import results
from app.compute.gradients import input_gradients
from app.compute.load import Loader
from app.errors import InvalidRequest
from app.layers import LAYERS
from tests.conftest import call_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", LAYERS)
def test_every_case_has_the_gradients_of_autograd_bit_for_bit(engine: Engine, name: str) -> None:
    spec, compared = LAYERS[name], 0
    for case in spec.cases:
        try:
            call = call_of(spec, {spec.gradient: "ones", **case.body})
            plan, _ = engine.plan(spec, call)
        except InvalidRequest:  # a dtype that has no gradients
            continue
        loader = Loader(spec, call, plan, engine.device)
        found = []
        for take in (input_gradients, by_autograd):
            inputs = loader.inputs()
            with torch.enable_grad():
                outputs = spec.run(inputs, plan)
            own = tuple(outputs[name] for name in results(spec, outputs))
            found.append(take(inputs, own, loader.output_gradients(own)))
        ours, theirs = found
        assert ours.keys() == theirs.keys()
        for key, gradient in theirs.items():
            same = torch.equal(bits(ours[key]), bits(gradient))
            assert same, f"{case.name}: {key}: {ours[key]} is not {gradient}"
            compared += 1
    assert compared >= len(spec.own_cases)


def by_autograd(
    inputs: Mapping[str, torch.Tensor],
    outputs: tuple[torch.Tensor, ...],
    output_gradients: tuple[torch.Tensor, ...],
) -> dict[str, torch.Tensor]:
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    found = torch.autograd.grad(outputs, tuple(leaves.values()), output_gradients)
    return dict(zip(leaves, found, strict=True))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as integers: NaN equals NaN, and -0.0 is not 0.0."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(integers[tensor.element_size()])


def test_a_worker_does_without_the_library_for_symbols() -> None:
    code = (
        "import sys; from app.compute import Engine; from app.settings import Settings;"
        "engine = Engine('cpu', Settings().limits); engine.warm_up();"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
