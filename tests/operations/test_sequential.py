"""Chains equal their layers called one by one, bit for bit, in every format."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, save

from app.api.problems import refusal
from app.compute import Engine
from app.layers import LAYERS, LayerSpec
from app.operations import Context
from app.operations.sequential import SequentialReader
from app.scheduling import finished
from tests._soak import rounds
from tests.operations._chains import CHAINABLE, one_by_one, random_chain, same, tensors_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_thread")]
PATH = "/v1/sequential"
BINARY = "application/vnd.safetensors"
RELU = {"layer": "relu"}
IMAGE = [[[[1, 3, 2, 4], [5, 6, 8, 7], [2, 0, 1, 3], [4, 4, 6, 5]]]]
CONV: dict[str, Any] = {"layer": "conv2d", "weight": [[[[1, -1], [2, 0]]]], "padding": "same_upper"}
NORM: dict[str, Any] = {"layer": "batch_norm2d", "training": True}
POOL: dict[str, Any] = {"layer": "max_pool2d", "kernel_size": 2}


@pytest.fixture(scope="module")
def reader(engine: Engine) -> SequentialReader:
    return SequentialReader(Context(engine, LAYERS, refusal))


@pytest.mark.parametrize("seed", range(rounds(8, 300)))
@pytest.mark.parametrize("first", CHAINABLE, ids=lambda spec: spec.name)
def test_a_chain_equals_its_layers_one_by_one(
    engine: Engine, reader: SequentialReader, first: LayerSpec, seed: int
) -> None:
    fields = random_chain(engine, 1000 * seed + CHAINABLE.index(first), first)
    answers = one_by_one(engine, fields)
    found = finished(reader.read({**fields, "return_intermediate": True}).work())
    assert same(found["output"], answers[-1]["output"])
    assert same(found["gradients.input"], answers[0]["gradients.input"])
    for index, answer in enumerate(answers):
        own = dict(tensors_of(found, prefix := f"layers.{index}."))
        expected = dict(tensors_of(answer))
        expected.pop("gradients.input")
        assert own.keys() == expected.keys()
        for name, tensor in expected.items():
            assert same(own[name], tensor), f"{prefix}{name}, {answer['layer']}"
        assert found[f"{prefix}options"] == answer["options"]
        if "explanation" in answer:
            assert found[f"{prefix}advice"] == answer["explanation"]["advice"]
            assert found[f"{prefix}axes"] == answer["explanation"]["axes"]


async def posted(client: httpx.AsyncClient, path: str = PATH, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_integers_pass_through_a_chain(client: httpx.AsyncClient) -> None:
    answer = await posted(client, input=IMAGE, dtype="int8", layers=[POOL, POOL])
    assert answer["output"] == [[[[8]]]]
    assert "gradients" not in answer


async def test_intermediates_are_those_asked_for(client: httpx.AsyncClient) -> None:
    layers = [CONV, NORM, RELU, POOL]
    for wanted, expected in ((False, []), ([], []), (True, [0, 1, 2, 3]), ([3, 1, 1], [1, 3])):
        answer = await posted(client, input=IMAGE, layers=layers, return_intermediate=wanted)
        found = [index for index, layer in enumerate(answer["layers"]) if "output" in layer]
        assert found == expected
    assert answer["layers"][3]["output"] == answer["output"]


async def test_a_layer_inherits_what_it_does_not_say(client: httpx.AsyncClient) -> None:
    layers = [{**POOL, "explain": False}, {**POOL, "convention": "torch"}]
    answer = await posted(
        client,
        input=IMAGE,
        layers=layers,
        convention="onnx",
        explain=True,
        return_intermediate=True,
    )
    first, second = (layer["options"] for layer in answer["layers"])
    assert (first["convention"], first["stride"]) == ("onnx", [1, 1])
    assert (second["convention"], second["stride"]) == ("torch", [2, 2])
    assert ["advice" in layer for layer in answer["layers"]] == [False, True]
    last = [{"layer": "global_avg_pool"}, RELU]
    one = np.ones((4, 4, 3)).tolist()
    answer = await posted(client, input=one, layers=last, layout="channels_last", batched=False)
    assert answer["output"] == [[[1, 1, 1]]]


ACTIVATION = ("activation-before-normalisation", [1, 2])
PLACED: dict[str, tuple[list[dict[str, Any]], list[tuple[str, list[int]]]]] = {
    "nothing to say": ([CONV, NORM, RELU, POOL, CONV, RELU, {"layer": "global_avg_pool"}], []),
    "a bias": ([{**CONV, "bias": [1]}, NORM], [("bias-before-batch-norm", [0, 1])]),
    "a bias, ReLU": ([{**CONV, "bias": [1]}, RELU, NORM], [ACTIVATION]),
    "pools": ([POOL, RELU, {**POOL, "layer": "avg_pool2d"}], [("repeated-pooling", [0, 2])]),
    "a pool that keeps": ([POOL, {"layer": "adaptive_avg_pool2d", "output_size": 2}], []),
    "a dense head": (
        [POOL, {"layer": "conv2d", "weight": [[[[1, 2], [3, 4]]]]}],
        [("global-average-before-head", [1])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACED)
async def test_placement_is_advised_on(client: httpx.AsyncClient, case: str) -> None:
    layers, expected = PLACED[case]
    answer = await posted(client, input=IMAGE, layers=layers, explain=True)
    assert [(one["code"], one["layers"]) for one in answer["placement"]] == expected
    for advice in answer["placement"]:
        assert all(f"layers/{index}" in advice["message"] for index in advice["layers"])
    assert "placement" not in await posted(client, input=IMAGE, layers=layers)


async def test_the_bias_that_is_advised_against_has_no_gradient(client: httpx.AsyncClient) -> None:
    grad = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).tolist()
    layers = [{**CONV, "bias": [1]}, NORM]
    answer = await posted(client, input=IMAGE, layers=layers, grad_output=grad)
    assert abs(answer["layers"][0]["gradients"]["bias"][0]) < 1e-6


async def test_a_layer_of_a_chain_can_be_sent_back(client: httpx.AsyncClient) -> None:
    """The options of an entry in the answer are those of a request."""
    answer = await posted(client, input=IMAGE, layers=[CONV, NORM, POOL])
    sent: tuple[dict[str, Any], ...] = (
        {"layer": "conv2d", "weight": CONV["weight"]},
        {"layer": "batch_norm2d"},
        POOL,
    )
    layers = [
        {**own, **layer["options"]} for own, layer in zip(sent, answer["layers"], strict=True)
    ]
    assert await posted(client, input=IMAGE, layers=layers) == answer


@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_safetensors_in_and_out(client: httpx.AsyncClient, dtype: str) -> None:
    draw = np.random.default_rng(0).standard_normal
    tensors = {
        "input": draw((2, 1, 6, 6)).astype(dtype),
        "grad_output": draw((2, 2, 3, 3)).astype(dtype),
        "layers.0.weight": draw((2, 1, 3, 3)).astype(dtype),
        "layers.1.weight": draw(2).astype(dtype),
        "layers.1.running_mean": draw(2).astype(dtype),
        "layers.1.running_var": abs(draw(2)).astype(dtype),
    }
    layers = [{"layer": "conv2d", "padding": 1}, {**NORM}, RELU, POOL]
    request = {"layers": layers, "return_intermediate": [0]}
    content = save(tensors, {"request": json.dumps(request)})
    headers = {"Content-Type": BINARY, "Accept": BINARY}
    response = await client.post(PATH, content=content, headers=headers)
    assert response.status_code == 200, response.text
    found = load(response.content)
    assert found["layers.0.output"].dtype == dtype
    whole: dict[str, Any] = {**request, "dtype": dtype}
    whole |= {name: tensors[name].tolist() for name in ("input", "grad_output")}
    whole["layers"] = [
        {
            **layer,
            **{
                name.rpartition(".")[2]: tensor.tolist()
                for name, tensor in tensors.items()
                if name.startswith(f"layers.{index}.")
            },
        }
        for index, layer in enumerate(layers)
    ]
    answer = await posted(client, **whole)
    for name, tensor in found.items():
        value = answer
        for part in name.split("."):
            value = value[int(part) if part.isdigit() else part]
        assert np.array_equal(np.array(value, dtype), tensor), name
    assert {"layers.1.gradients.bias", "layers.1.running_stats.var", "gradients.input"} <= set(
        found
    )


async def test_the_longest_chain_comes_in_safetensors(client: httpx.AsyncClient) -> None:
    """With four tensors and several options in each of 64 layers."""
    vectors = ("weight", "bias", "running_mean", "running_var")
    tensors = {f"layers.{i}.{n}": np.ones(2, np.float32) for i in range(64) for n in vectors}
    tensors["input"] = np.ones((4, 2), np.float32)
    norm = {"layer": "batch_norm1d", "training": True, "momentum": 0.5, "eps": 0.1}
    content = save(tensors, {"request": json.dumps({"layers": [norm] * 64})})
    headers = {"Content-Type": BINARY}
    response = await client.post(PATH, content=content, headers=headers)
    assert response.status_code == 200, response.text
    assert len(response.json()["layers"]) == 64
