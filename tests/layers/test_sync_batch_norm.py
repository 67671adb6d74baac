"""Synchronised batch norm: equal to batch norm on the joined batch, whatever the split."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from app.compute import Engine
from app.errors import InvalidRequest
from tests.conftest import compute

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def parts(dtype: str, *sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 4, 5, generator=generator).to(getattr(torch, dtype)) for n in sizes]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [(2,), (1, 4), (3, 0, 1, 2)])
def test_it_equals_batch_norm_on_the_joined_batch(
    engine: Engine, sizes: tuple[int, ...], training: bool, dtype: str
) -> None:
    inputs = parts(dtype, *sizes)
    weight, bias, mean = (torch.tensor(v).to(inputs[0]) for v in ([1, -2, 3], [0, 1, 2], [1, 0, 1]))
    var = torch.tensor([1, 2, 0.5]).to(inputs[0])
    grads = [torch.randn_like(x) for x in inputs]
    vectors: dict[str, Any] = {
        "weight": weight, "bias": bias, "running_mean": mean, "running_var": var,
    }  # fmt: skip
    answer = compute(
        engine,
        "sync_batch_norm",
        {"inputs": inputs, "grad_outputs": grads, "training": training, "dtype": dtype, **vectors},
    )
    joined = torch.cat(inputs).requires_grad_()
    weight.requires_grad_()
    bias.requires_grad_()
    output = F.batch_norm(joined, mean, var, weight, bias, training, 0.1, 1e-5)
    output.backward(torch.cat(grads))
    within: Any = {"rtol": TOLERANCE[dtype], "atol": 10 * TOLERANCE[dtype]}
    torch.testing.assert_close(torch.cat(answer["outputs"]), output.detach(), **within)
    assert [tuple(one.shape) for one in answer["outputs"]] == [tuple(x.shape) for x in inputs]
    assert answer["output_shapes"] == [tuple(x.shape) for x in inputs]
    gradients = answer["gradients"]
    assert joined.grad is not None
    torch.testing.assert_close(torch.cat(gradients["inputs"]), joined.grad, **within)
    torch.testing.assert_close(gradients["weight"], weight.grad, **within)
    torch.testing.assert_close(gradients["bias"], bias.grad, **within)
    assert ("running_stats" in answer) == ("replicas" in answer) == training
    if training:
        torch.testing.assert_close(answer["running_stats"]["mean"], mean, **within)
        torch.testing.assert_close(answer["running_stats"]["var"], var, **within)
        for replica, x in zip(answer["replicas"], inputs, strict=True):
            if len(x):
                alone = F.batch_norm(x, None, None, weight, bias, True).detach()
                torch.testing.assert_close(replica["output"], alone, **within)
                stats = replica["batch_stats"]
                torch.testing.assert_close(stats["mean"], x.mean((0, 2, 3)), **within)
                torch.testing.assert_close(stats["var_unbiased"], x.var((0, 2, 3)), **within)


def test_replicas_may_differ_in_their_spatial_sizes_too(engine: Engine) -> None:
    inputs = [torch.randn(2, 3, 5), torch.randn(1, 3, 2)]
    answer = compute(engine, "sync_batch_norm", {"inputs": inputs, "training": True})
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1)
    expected = (values - values.mean(1, keepdim=True)) / (
        values.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(answer["outputs"][1], expected[:, -2:].unsqueeze(0))


def test_one_value_a_replica_is_enough_where_the_batch_has_more(engine: Engine) -> None:
    body = {"inputs": [[[1.0, 2.0]], [[3.0, 6.0]]], "training": True}
    answer = compute(engine, "sync_batch_norm", body)
    torch.testing.assert_close(answer["batch_stats"]["mean"], torch.tensor([2.0, 4.0]))
    alone = answer["replicas"][0]
    assert alone["output"].tolist() == [[0.0, 0.0]]
    assert alone["batch_stats"]["var"].tolist() == [0.0, 0.0]
    assert all(map(math.isnan, alone["batch_stats"]["var_unbiased"].tolist()))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"inputs": [[[1, 2]], [[1, 2, 3]]]}, "#/inputs/1"),
        ({"inputs": [[[1, 2]]]}, "#/inputs"),
        ({"inputs": [[1, 2]]}, "#/inputs/0"),
        ({"inputs": [[[1]]] * 65}, "#/inputs"),
        ({"inputs": [[[1, 2]], [[3, 4]]], "grad_outputs": [[[1, 1]]]}, "#/grad_outputs"),
        ({"inputs": [[[1, 2]], [[3, 4]]], "weight": [1]}, "#/weight"),
    ],
)
def test_refusals_point_at_the_replica(engine: Engine, body: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compute(engine, "sync_batch_norm", {**body, "training": True})
    assert caught.value.errors[0].pointer == pointer
