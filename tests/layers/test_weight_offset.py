"""`weight_offset` of RMS norm: 1 reads the weight as `1 + weight`."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.compute import Engine
from app.schemas.options import CONVENTIONS
from tests.conftest import compute

X = np.array([[1.0, 2.0, 4.0, 5.0], [3.0, -3.0, 0.0, 6.0]])
WEIGHT = np.array([0.5, -1.0, 0.0, 2.0])
GRADIENT = np.array([[1.0, -2.0, 0.5, 0.0], [0.25, 1.0, -1.0, 3.0]])
EPS = 0.5


def sent(**more: Any) -> dict[str, Any]:
    return {"input": torch.tensor(X), "axis": -1, "eps": EPS, "dtype": "float64",
            "grad_output": torch.tensor(GRADIENT), **more}  # fmt: skip


@pytest.mark.parametrize("offset", [0, 1])
def test_the_formula_and_its_gradients(engine: Engine, offset: int) -> None:
    body = sent(weight=torch.tensor(WEIGHT), weight_offset=offset)
    answer = compute(engine, "rms_norm", body)
    scale, rms = offset + WEIGHT, np.sqrt((X**2).mean(-1, keepdims=True) + EPS)
    unit = X / rms
    weighted = GRADIENT * scale
    gradient = (weighted - unit * (weighted * unit).mean(-1, keepdims=True)) / rms
    expected = {"output": scale * unit, "input": gradient, "weight": (GRADIENT * unit).sum(0)}
    found = {"output": answer["output"], **answer["gradients"]}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-14, atol=1e-15)
    assert answer["options"]["weight_offset"] == offset


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_it_equals_a_weight_that_is_one_more(engine: Engine, dtype: str) -> None:
    body = {"input": torch.tensor(X), "axis": -1, "dtype": dtype, "grad_output": "ones"}
    plain = compute(engine, "rms_norm", {**body, "weight": torch.tensor(1 + WEIGHT)})
    offset = {**body, "weight": torch.tensor(WEIGHT), "weight_offset": 1}
    answer = compute(engine, "rms_norm", offset)
    assert torch.equal(answer["output"], plain["output"])
    for name in ("input", "weight"):
        assert torch.equal(answer["gradients"][name], plain["gradients"][name])


def test_a_half_weight_is_added_before_anything_is_rounded(engine: Engine) -> None:
    """1 + 3 * 2^-9 is no bfloat16."""
    x, weight = torch.arange(1.0, 65).double(), 3 * 2**-9
    body = {"input": x, "weight": [weight] * 64, "axis": -1, "eps": 0, "weight_offset": 1,
            "dtype": "bfloat16"}  # fmt: skip
    output = compute(engine, "rms_norm", body)["output"]
    unit = x / x.square().mean().sqrt()
    assert torch.equal(output, (unit * (1 + weight)).bfloat16())
    early = float(torch.tensor(1 + weight).bfloat16())
    assert not torch.equal(output, (unit * early).bfloat16()), "the case tells them apart"


def test_a_weight_left_out_scales_by_1(engine: Engine) -> None:
    plain, offset = (compute(engine, "rms_norm", sent(weight_offset=o)) for o in (0, 1))
    assert torch.equal(plain["output"], offset["output"])
    assert plain["gradients"].keys() == offset["gradients"].keys() == {"input", "weight"}
    for name, gradient in plain["gradients"].items():
        assert torch.equal(gradient, offset["gradients"][name])


def test_the_default_is_0_in_every_convention(engine: Engine) -> None:
    for convention in CONVENTIONS:
        answer = compute(engine, "rms_norm", sent(convention=convention))
        assert answer["options"]["weight_offset"] == 0


@pytest.mark.parametrize("value", [2, -1, True, 1.5, "1", None])
def test_other_offsets_are_refused(engine: Engine, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        compute(engine, "rms_norm", sent(weight_offset=value))
    assert caught.value.errors()[0]["loc"] == ("weight_offset",)
