"""Chains against torch's autograd: the output, and the gradients of input and parameters."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from app.api.problems import refusal
from app.compute import Engine
from app.layers import LAYERS
from app.operations import Context
from app.operations.sequential import SequentialReader
from tests._soak import rounds
from tests.conftest import unwire
from tests.operations._chains import CHAINABLE, payload

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
Run = Callable[..., torch.Tensor]
Built = tuple[dict[str, Any], Run]


def built(name: str, shape: torch.Size, draw: random.Random) -> Built:
    """A layer's entry in a chain, with torch tensors, and the same layer in torch."""
    rank, channels = len(shape), shape[1]
    per_channel = {"weight": torch.randn(channels), "bias": torch.randn(channels)}
    stride, eps = draw.choice((1, 2)), draw.choice((1e-5, 0.1))
    kind = name.rstrip("123d") if name[-1] == "d" else name
    function: Any = getattr(F, name, None)
    if kind == "conv":
        groups = draw.choice([g for g in (1, 2) if channels % g == 0])
        options = {
            "stride": stride,
            "padding": 1,
            "dilation": draw.choice((1, 2)),
            "groups": groups,
        }
        weight = torch.randn(4, channels // groups, *[2] * (rank - 2))
        tensors = {"weight": weight, "bias": torch.randn(4)}
        return {**options, **tensors}, lambda x, **p: function(x, **p, **options)
    if kind == "batch_norm":
        training = draw.random() < 0.7
        running = {"running_mean": torch.randn(channels), "running_var": torch.rand(channels) + 0.5}

        def batch_norm(x: torch.Tensor, **p: torch.Tensor) -> torch.Tensor:
            kept: Any = {key: value.to(x).clone() for key, value in running.items()}
            parts: Any = p
            return F.batch_norm(x, **kept, **parts, training=training, eps=eps)

        return {**per_channel, **running, "training": training, "eps": eps}, batch_norm
    if kind == "instance_norm":
        return {**per_channel, "eps": eps}, lambda x, **p: F.instance_norm(x, **p, eps=eps)
    if kind == "group_norm":
        groups = draw.choice([g for g in (1, 2) if channels % g == 0])
        entry = {**per_channel, "num_groups": groups, "eps": eps}
        return entry, lambda x, **p: F.group_norm(x, groups, **p, eps=eps)
    if kind in ("layer_norm", "rms_norm"):
        axes = draw.choice((1, 2)) if rank > 2 else 1
        normalized = list(shape[-axes:])
        names = ("weight", "bias") if kind == "layer_norm" else ("weight",)
        tensors = {key: torch.randn(normalized) for key in names}
        entry = {**tensors, "normalized_shape": normalized, "eps": eps}
        return entry, lambda x, **p: function(x, normalized, **p, eps=eps)
    if kind in ("max_pool", "avg_pool"):
        options = {"kernel_size": 2, "stride": stride, "padding": 1, "ceil_mode": stride == 2}
        return options, lambda x: function(x, **options)
    if kind == "lp_pool":
        return (
            {"norm_type": 2, "kernel_size": 2, "stride": stride},
            lambda x: function(x, 2.0, 2, stride),
        )
    if kind.startswith("adaptive"):
        size = draw.choice((1, 2, 3))
        return {"output_size": size}, lambda x: function(x, size)
    if kind.startswith("global"):
        pool: Any = getattr(F, f"adaptive_{kind[7:10]}_pool{rank - 2}d")
        return {}, lambda x: pool(x, 1)
    assert name == "relu"
    return {}, F.relu


@pytest.fixture(scope="module")
def reader(engine: Engine) -> SequentialReader:
    return SequentialReader(Context(engine, LAYERS, refusal))


def grown(first: str, seed: int, dtype: str) -> tuple[torch.Tensor, list[tuple[str, Built]]]:
    """An input, and layers that torch takes one after the other."""
    draw = random.Random(f"{first} {seed}")
    torch.manual_seed(draw.randrange(1 << 30))
    ranks = [rank for rank in (3, 4, 5) if rank in LAYERS[first].inputs[0].ranks]
    rank = draw.choice(ranks)
    x = torch.randn((3, 4, 9, 7, 5)[:rank], dtype=getattr(torch, dtype))
    layers: list[tuple[str, Built]] = []
    names = [spec.name for spec in CHAINABLE if rank in spec.inputs[0].ranks]
    shape = x.shape
    while len(layers) < 5:
        name = draw.choice(names) if layers else first
        entry, run = built(name, shape, draw)
        try:
            output = run(torch.randn(shape), **parameters(entry))
        except (RuntimeError, ValueError):
            if not layers:
                raise
            continue
        layers.append((name, (entry, run)))
        shape = output.shape
    return x, layers


def parameters(entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: entry[name] for name in ("weight", "bias") if name in entry}


@pytest.mark.parametrize("seed", range(rounds(3, 100)))
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("first", [spec.name for spec in CHAINABLE])
def test_every_gradient_is_autograds(
    reader: SequentialReader, first: str, dtype: str, seed: int
) -> None:
    x, layers = grown(first, seed, dtype)
    leaves = {"input": x.clone().requires_grad_()}
    y = leaves["input"]
    entries = []
    for index, (name, (entry, run)) in enumerate(layers):
        own = {key: tensor.to(x).requires_grad_() for key, tensor in parameters(entry).items()}
        leaves |= {f"layers.{index}.gradients.{key}": leaf for key, leaf in own.items()}
        y = run(y, **own)
        sent = {
            key: payload(value.detach().numpy(), dtype)
            if isinstance(value, torch.Tensor)
            else value
            for key, value in {**entry, **own}.items()
        }
        entries.append({"layer": name, **{k: _listed(v) for k, v in sent.items()}})
    upstream = torch.randn_like(y)
    expected = dict(
        zip(leaves, torch.autograd.grad(y, list(leaves.values()), upstream), strict=True)
    )
    fields = {
        "input": payload(x.numpy(), dtype),
        "layers": entries,
        "grad_output": payload(upstream.numpy(), dtype),
        "dtype": dtype,
    }
    answer = unwire(reader.read(fields).work())
    what = [name for name, _ in layers]
    close(answer["output"], y.detach(), dtype, f"output of {what}")
    close(answer["gradients.input"], expected.pop("input"), dtype, f"input of {what}")
    for name, gradient in expected.items():
        close(answer[name], gradient, dtype, f"{name} of {what}")


def _listed(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def close(found: torch.Tensor, expected: torch.Tensor, dtype: str, what: str) -> None:
    """Equal up to a share of the tensor's largest number: a chain of norms cancels."""
    assert found.shape == expected.shape, what
    scale = max(1.0, expected.abs().max().item())
    assert (found - expected).abs().max().item() <= TOLERANCE[dtype] * scale, what
