"""`weight_layout` of convolution: the order of the weight's axes, and of its gradient's."""

import itertools
import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, shape_model
from tests._binary import JSON, opened, post, saved
from tests.conftest import compute

DIMS = pytest.mark.parametrize("dims", [1, 2, 3])
LENGTHS, KERNEL = (6, 5, 4), (3, 2, 1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers, whose sums are exact."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).double()


def hwio(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, *kernel) -> (*kernel, in, out)."""
    return weight.permute(*range(2, weight.dim()), 1, 0).contiguous()


@DIMS
@pytest.mark.parametrize("groups", [1, 2])
def test_the_definition(engine: Engine, dims: int, groups: int) -> None:
    """`y[n, o, p] = sum over c, i of w[i, c, o] x[n, c, p + i]`, and both gradients, in loops."""
    x = drawn(2, 4, *LENGTHS[:dims]).numpy()
    w: Any = drawn(*KERNEL[:dims], 4 // groups, 6, seed=1).numpy()
    outs = [n - k + 1 for n, k in zip(LENGTHS, KERNEL[:dims], strict=False)]
    g = drawn(2, 6, *outs, seed=2).numpy()
    y, dx, dw = np.zeros(g.shape), np.zeros(x.shape), np.zeros_like(w)
    i: Any
    for o, c in itertools.product(range(6), range(4 // groups)):
        channel = o // (6 // groups) * (4 // groups) + c
        for i in itertools.product(*map(range, KERNEL[:dims])):
            along = (slice(a, a + n) for a, n in zip(i, outs, strict=True))
            seen: Any = (slice(None), channel, *along)
            y[:, o] += w[*i, c, o] * x[seen]
            dx[seen] += w[*i, c, o] * g[:, o]
            dw[*i, c, o] += (g[:, o] * x[seen]).sum()
    body = {"input": torch.tensor(x), "weight": torch.tensor(w), "groups": groups,
            "grad_output": torch.tensor(g), "weight_layout": "hwio",
            "dtype": "float64"}  # fmt: skip
    answer = compute(engine, f"conv{dims}d", body)
    assert answer["options"]["weight_layout"] == "hwio"
    for found, expected in (
        (answer["output"], y), (answer["gradients"]["input"], dx),
        (answer["gradients"]["weight"], dw),
        (answer["gradients"]["bias"], g.sum((0, *range(2, dims + 2)))),
    ):  # fmt: skip
        np.testing.assert_array_equal(found.numpy(), expected)


@DIMS
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [3, 300])
def test_the_layouts_give_the_same_bits(
    engine: Engine, dims: int, dtype: str, channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *LENGTHS[:dims], generator=generator)
    weight = torch.randn(5, channels, *KERNEL[:dims], generator=generator)
    body = {"input": x, "dtype": dtype, "padding": [[1, 0]], "grad_output": "ones"}
    plain = compute(engine, f"conv{dims}d", {**body, "weight": weight})
    turned = {**body, "weight": hwio(weight), "weight_layout": "hwio"}
    answer = compute(engine, f"conv{dims}d", turned)
    assert torch.equal(answer["output"], plain["output"])
    assert torch.equal(answer["gradients"]["weight"], hwio(plain["gradients"]["weight"]))
    for name in ("input", "bias"):
        assert torch.equal(answer["gradients"][name], plain["gradients"][name])


@pytest.mark.parametrize("convention", ["keras", "flax"])
def test_the_layout_of_the_input_does_not_matter(engine: Engine, convention: str) -> None:
    x, weight = drawn(1, 3, 4, 5), drawn(2, 2, 3, 4, seed=1)
    body = {"weight": weight, "convention": convention, "padding": 0, "grad_output": "ones"}
    last = compute(engine, "conv2d", {**body, "input": x.movedim(1, -1)})
    first = compute(engine, "conv2d", {**body, "input": x, "layout": "channels_first"})
    assert last["options"]["weight_layout"] == first["options"]["weight_layout"] == "hwio"
    assert torch.equal(last["output"].movedim(-1, 1), first["output"])
    assert torch.equal(last["gradients"]["weight"], first["gradients"]["weight"])
    assert first["gradients"]["weight"].shape == weight.shape


def test_shape_requests_need_no_layout(engine: Engine) -> None:
    spec = LAYERS["conv2d"]
    body = {"input_shape": (2, 4, 9, 8), "out_channels": 6, "kernel_size": (3, 2), "groups": 2,
            "layout": "channels_first"}  # fmt: skip
    valid, same = (2, 6, 7, 7), (2, 6, 9, 8)
    expected = {"torch": valid, "keras": valid, "onnx": valid, "flax": same}
    for convention, shape in expected.items():
        for more in ({}, {"weight_layout": "oihw"}, {"weight_layout": "hwio"}):
            call: Any = shape_model(spec).model_validate({**body, **more, "convention": convention})
            answer = engine.shape(spec, call)
            assert answer["output_shape"] == shape
            assert answer["conventions"] == expected


@pytest.mark.parametrize(
    ("convention", "weight", "pointer", "words"),
    [
        ("torch", (3, 3, 4, 6), "#/weight", "expected shape [out, 4, *kernel]"),
        ("torch", (3, 3, 4, 6), "#/weight", 'add `weight_layout: "hwio"`'),
        ("keras", (6, 4, 3, 3), "#/weight", "expected shape [*kernel, 4, out]"),
        ("keras", (6, 4, 3, 3), "#/weight", 'add `weight_layout: "oihw"`'),
        ("keras", (6, 4, 3, 3), "#/weight", "got [6, 4, 3, 3]"),
        ("flax", (3, 0, 4, 6), "#/weight", "got shape [3, 0, 4, 6]"),
        ("keras", (3, 3, 4), "#/weight", "C / groups, out) under `weight_layout: hwio`"),
    ],
)
def test_a_weight_that_does_not_fit_is_told_the_other_layout(
    engine: Engine, convention: str, weight: tuple[int, ...], pointer: str, words: str
) -> None:
    body = {"input": torch.ones(1, 4, 5, 5), "weight": torch.ones(weight),
            "layout": "channels_first", "convention": convention}  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        compute(engine, "conv2d", body)
    assert caught.value.errors[0].pointer == pointer
    assert words in str(caught.value)


def test_the_groups_are_not_blamed_for_a_layout(engine: Engine) -> None:
    body = {"input": torch.ones(1, 4, 5, 5), "weight": torch.ones(6, 2, 3, 3), "groups": 2,
            "layout": "channels_first", "convention": "keras"}  # fmt: skip
    with pytest.raises(InvalidRequest, match="weight_layout") as caught:
        compute(engine, "conv2d", body)
    assert caught.value.errors[0].pointer == "#/weight"


def test_a_bias_is_held_against_the_last_axis(engine: Engine) -> None:
    body = {"input": torch.ones(1, 4, 5), "weight": torch.ones(3, 4, 6), "bias": torch.ones(3),
            "weight_layout": "hwio"}  # fmt: skip
    with pytest.raises(InvalidRequest, match=r"bias: expected shape \[6\]; got \[3\]"):
        compute(engine, "conv1d", body)


@pytest.mark.anyio
async def test_every_face_reads_the_layout(client: httpx.AsyncClient) -> None:
    """JSON, safetensors, a batch and `/v2` give the same numbers."""
    x, weight = drawn(1, 3, 4, 4), drawn(2, 2, 3, 5, seed=1)
    options = {"weight_layout": "hwio", "stride": 2}
    body = {"input": x.tolist(), "weight": weight.tolist(), "dtype": "float64", **options,
            "grad_output": "ones"}  # fmt: skip
    answer = (await post(client, "conv2d", body, JSON)).json()
    assert np.array(answer["gradients"]["weight"]).shape == weight.shape
    file = saved({"input": x, "weight": weight}, grad_output="ones", **options)
    tensors, _ = opened(await post(client, "conv2d", file))
    assert tensors["output"].tolist() == answer["output"]
    assert tensors["gradients.weight"].tolist() == answer["gradients"]["weight"]
    requests = {"requests": [{"layer": "conv2d", **body}]}
    batch = (await client.post("/v1/batch", json=requests)).json()
    assert batch["responses"][0]["body"] == answer
    inputs = [
        {"name": name, "shape": list(t.shape), "datatype": "FP64", "data": t.flatten().tolist()}
        for name, t in (("input", x), ("weight", weight))
    ]
    outputs = [{"name": "output"}, {"name": "grad_weight"}]
    message = {"inputs": inputs, "outputs": outputs, "parameters": options}
    response = await client.post("/v2/models/conv2d/infer", content=json.dumps(message).encode())
    found = {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in response.json()["outputs"]}
    assert found["output"].tolist() == answer["output"]
    assert found["grad_weight"].tolist() == answer["gradients"]["weight"]
