"""Tensors as bytes over HTTP: the same bits in every form, Accept, dtypes, base64, every layer."""

from typing import Any

import httpx
import pytest
import torch
import torch.nn.functional as F

from app.layers import LAYERS
from tests._binary import (
    DTYPES,
    FILE,
    FLOATS,
    JSON,
    Tensors,
    bits,
    opened,
    packed,
    post,
    problem,
    saved,
    saved_by_numpy,
)  # fmt: skip
from tests.golden.make import FILES, specials

pytestmark = pytest.mark.anyio
COUNT = "running_stats.num_batches_tracked"


@pytest.mark.parametrize("dtype", DTYPES)
async def test_bits_survive(client: httpx.AsyncClient, dtype: str) -> None:
    x = specials(dtype)
    requests: list[object] = [
        FILES[dtype],
        {"input": packed(x), "dtype": dtype, "kernel_size": 1, "encoding": "base64"},
    ]
    if dtype != "bfloat16":  # numpy has none
        requests.append(saved_by_numpy({"input": x}, kernel_size=1, encoding="base64"))
    for request in requests:
        response = await post(client, "max_pool2d", request)
        assert "compute;dur=" in response.headers["Server-Timing"]
        tensors, rest = opened(response)
        assert tensors.keys() == {"output"}
        assert bits(tensors["output"]) == bits(x)
        assert (rest["dtype"], rest["output_shape"]) == (dtype, list(x.shape))
        answer = await post(client, "max_pool2d", request, JSON)
        assert answer.json()["output"] == packed(x)
    if dtype in FLOATS:
        tensors, _ = opened(await post(client, "relu", saved({"input": x})))
        assert bits(tensors["output"].abs()) == bits(F.relu(x).abs())
        positive = x[~torch.signbit(x)]
        tensors, _ = opened(await post(client, "relu", saved({"input": positive})))
        assert bits(tensors["output"]) == bits(positive)


@pytest.mark.parametrize("dtype", FLOATS)
async def test_nans_survive(client: httpx.AsyncClient, dtype: str) -> None:
    x = torch.tensor([[[[1.0, float("nan"), -float("nan"), 2.0]]]], dtype=DTYPES[dtype])
    for layer, options in (("relu", {}), ("max_pool2d", {"kernel_size": 1})):
        for body in (
            saved({"input": x}, **options),
            {"input": packed(x), "dtype": dtype, **options},
        ):
            tensors, _ = opened(await post(client, layer, body))
            torch.testing.assert_close(tensors["output"], x, rtol=0, atol=0, equal_nan=True)
            output = (await post(client, layer, body, JSON)).json()["output"]
            assert output == [[[[1, "NaN", "NaN", 2]]]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (0, 0), (1,) * 8])
async def test_shapes_survive(
    client: httpx.AsyncClient, dtype: str, shape: tuple[int, ...]
) -> None:
    x = torch.ones(shape, dtype=DTYPES[dtype])
    for body in (saved({"input": x}), {"input": packed(x), "dtype": dtype}):
        tensors, rest = opened(await post(client, "relu", body))
        assert bits(tensors["output"]) == bits(x)
        assert rest["output_shape"] == list(shape)


def example_of(layer: str) -> tuple[dict[str, Any], Tensors, dict[str, Any]]:
    """Everything that the layer can answer, asked for: as JSON, and as tensors and the rest."""
    spec, body = LAYERS[layer], {**LAYERS[layer].example, "explain": True}
    body[spec.gradient] = "ones"
    if "return_indices" in spec.options.model_fields:
        body["return_indices"] = True
    names = {port.name for port in spec.inputs}
    tensors: Tensors = {}
    for name in names & body.keys():
        kind = torch.int64 if name == "indices" else torch.float32
        parts: Any = body[name]
        numbered = {f"{name}.{i}": part for i, part in enumerate(parts)}
        for key, part in (numbered if name == "inputs" else {name: parts}).items():
            tensors[key] = torch.tensor(part, dtype=kind)
    return body, tensors, {key: value for key, value in body.items() if key not in names}


def flattened(value: Any, path: str, tensors: dict[str, object]) -> Any:
    """The answer without its tensors in form 3, which are put under their dotted paths."""
    if isinstance(value, dict) and value.keys() == {"shape", "dtype", "base64"}:
        tensors[path.removeprefix(".")] = value
        return ...
    if not isinstance(value, dict | list):
        return value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    rest = {key: flattened(item, f"{path}.{key}", tensors) for key, item in items}
    rest = {key: item for key, item in rest.items() if item is not ...}
    if value and not rest:
        return ...
    return rest if isinstance(value, dict) else [*rest.values()]


@pytest.mark.parametrize("layer", LAYERS)
async def test_every_layer_answers_the_same_in_every_form(
    client: httpx.AsyncClient, layer: str
) -> None:
    body, tensors, options = example_of(layer)
    assert tensors
    answer = await post(client, layer, {**body, "encoding": "base64"}, JSON)
    expected: dict[str, object] = {}
    expected_rest = flattened(answer.json(), "", expected)
    assert {"layer", "dtype", "device", "options", "explanation"} <= expected_rest.keys()
    for request in (body, saved(tensors, **options)):
        found, rest = opened(await post(client, layer, request))
        if (count := found.pop(COUNT, None)) is not None:  # a number in JSON
            rest["running_stats"] = {"num_batches_tracked": int(count)}
        assert {name: packed(tensor) for name, tensor in found.items()} == expected
        assert rest == expected_rest
    same = await post(client, layer, saved(tensors, **options, encoding="base64"), JSON)
    assert same.json() == answer.json()


@pytest.mark.parametrize("dtype", FLOATS)
async def test_max_pool_gives_torchs_bits(client: httpx.AsyncClient, dtype: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 7, 6, generator=generator).to(DTYPES[dtype])
    # One window an element: each gradient is one of these, and none is a sum.
    grad = torch.randn(2, 3, 3, 3, generator=generator).to(DTYPES[dtype])
    request = {"kernel_size": 2, "return_indices": True}
    body = saved({"input": x, "grad_output": grad}, **request)
    tensors, _ = opened(await post(client, "max_pool2d", body))
    leaf = x.clone().requires_grad_()
    output, indices = F.max_pool2d(leaf, 2, return_indices=True)
    (gradient,) = torch.autograd.grad(output, leaf, grad)
    expected = {"output": output.detach(), "indices": indices, "gradients.input": gradient}
    assert {name: bits(t) for name, t in tensors.items()} == {
        name: bits(t) for name, t in expected.items()
    }
    back = saved({"input": tensors["output"], "indices": tensors["indices"]}, kernel_size=2,
                 output_size=[7, 6])  # fmt: skip
    unpooled, rest = opened(await post(client, "max_unpool2d", back))
    unpool = torch.nn.MaxUnpool2d(2)
    assert bits(unpooled["output"]) == bits(unpool(output.detach(), indices, [7, 6]))
    assert rest["dtype"] == dtype


async def test_batch_norm_is_torchs_and_leaves_the_request_alone(client: httpx.AsyncClient) -> None:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)
    state = {
        name: torch.rand(3, generator=generator, dtype=torch.float64) + 0.5
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    body = saved({"input": x, "grad_output": grad, **state}, training=True, num_batches_tracked=4)
    before = bytes(bytearray(body))
    answers = [await post(client, "batch_norm1d", body) for _ in range(2)]
    assert body == before, "running statistics must not be updated in place"
    assert answers[0].content == answers[1].content
    tensors, _ = opened(answers[0])
    expected = {key: value.clone().requires_grad_() for key, value in {"input": x, **state}.items()}
    mean, var = state["running_mean"].clone(), state["running_var"].clone()
    output = F.batch_norm(
        expected["input"], mean, var, expected["weight"], expected["bias"], training=True
    )
    output.backward(grad)
    wanted = {
        "output": output.detach(),
        "running_stats.mean": mean,
        "running_stats.var": var,
        "batch_stats.mean": x.mean((0, 2)),
        "batch_stats.var": x.var((0, 2), correction=0),
        "batch_stats.var_unbiased": x.var((0, 2)),
        "batch_stats.inv_std": (x.var((0, 2), correction=0) + 1e-5).rsqrt(),
        **{f"gradients.{name}": expected[name].grad for name in ("input", "weight", "bias")},
    }
    assert tensors.pop("running_stats.num_batches_tracked", torch.tensor(5)).item() == 5
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(tensors[name], tensor)


@pytest.mark.parametrize("replicas", [2, 12, 64])
async def test_lists_are_in_the_order_of_their_numbers(
    client: httpx.AsyncClient, replicas: int
) -> None:
    """12: as text, inputs.10 stands before inputs.2. 64: `max_replicas`, each with a gradient."""
    inputs = [torch.full((1 + i % 3, 2), float(i)).double() for i in range(replicas)]
    grads = [torch.ones_like(x) * (i * i % 7) for i, x in enumerate(inputs)]
    body = saved(
        {f"inputs.{i}": x for i, x in enumerate(inputs)}
        | {f"grad_outputs.{i}": x for i, x in enumerate(grads)},
        training=True,
    )
    tensors, rest = opened(await post(client, "sync_batch_norm", body))
    leaves = torch.cat(inputs).requires_grad_()
    output = F.batch_norm(leaves, None, None, training=True)
    (gradient,) = torch.autograd.grad(output, leaves, torch.cat(grads))
    sizes = [len(x) for x in inputs]
    for i, (out, grad) in enumerate(
        zip(output.detach().split(sizes), gradient.split(sizes), strict=True)
    ):
        torch.testing.assert_close(tensors[f"outputs.{i}"], out)
        torch.testing.assert_close(tensors[f"gradients.inputs.{i}"], grad)
        assert tensors[f"replicas.{i}.output"].shape == inputs[i].shape
        assert tensors[f"replicas.{i}.batch_stats.mean"].tolist() == [i, i]
    assert f"outputs.{replicas}" not in tensors
    assert rest["output_shapes"] == [list(x.shape) for x in inputs]


async def test_more_replicas_than_the_limit(client: httpx.AsyncClient) -> None:
    body = saved({f"inputs.{i}": torch.ones(1, 2) for i in range(65)}, training=True)
    problem(await post(client, "sync_batch_norm", body), 400, 422)


@pytest.mark.parametrize("layer", ["relu", "sync_batch_norm"])
@pytest.mark.parametrize(
    ("kind", "accepts"),
    [
        (FILE, [FILE, FILE.upper(), f"{FILE}, {JSON};q=0.5", f"{JSON};q=0.5, {FILE}",
                f"{FILE}, */*;q=0.1", f"{JSON};q=0, */*", f"image/png, {FILE};q=0.1",
                f"{JSON};q=0.2, application/*;q=0.5", f"application/*;q=0, {FILE};q=0.1, */*",
                f"{FILE};q=0.5, ,"]),
        (JSON, ["", "*/*", "application/*", JSON, f"{FILE};q=0.5, {JSON}", f"{FILE};q=0.5, */*",
                f"{FILE};q=0, */*", f"{FILE};q=2, {JSON};q=0.1"]),
        (None, ["image/png", f"{FILE};q=0", "application/*;q=0, */*"]),
    ],
)  # fmt: skip
async def test_the_answers_form_is_the_callers_choice(
    client: httpx.AsyncClient, kind: str | None, accepts: list[str], layer: str
) -> None:
    body, tensors, options = example_of(layer)
    for request in (body, saved(tensors, **options)):
        for accept in accepts:
            response = await post(client, layer, request, accept)
            if kind is None:
                problem(response, 406)
            else:
                assert response.status_code == 200
                assert response.headers["Content-Type"] == kind, accept


async def test_repeated_accept_headers_are_one_list(client: httpx.AsyncClient) -> None:
    headers = [("Content-Type", JSON), ("Accept", FILE), ("Accept", "image/png")]
    response = await client.post("/v1/layers/relu", content=b'{"input": [1]}', headers=headers)
    assert opened(response)[0]["output"].tolist() == [1]


@pytest.mark.parametrize("accept", [FILE, JSON, "*/*"])
async def test_errors_are_problems_whatever_was_asked_for(
    client: httpx.AsyncClient, accept: str
) -> None:
    body = saved({"input": torch.ones(1)})
    problem(await post(client, "relu", b"", accept), 400)
    problem(await post(client, "relu", {}, accept), 422)
    problem(await post(client, "rely", body, accept), 404)
    problem(await post(client, "relu/shape", body, accept), 415)
    for sent in ("application/octet-stream", "application/safetensors", "text/plain"):
        problem(await post(client, "relu", body, accept, sent), 415)
    problem(await post(client, "relu", body, accept, JSON), 400)
    problem(await post(client, "relu", {"input": [1]}, accept, FILE), 400)


async def test_no_file_is_compressed_and_no_shape_is_a_file(client: httpx.AsyncClient) -> None:
    problem(await post(client, "relu/shape", {"input_shape": [1]}, FILE), 406)
    kind, coded = ("Content-Type", FILE), ("Content-Encoding", "gzip")
    body = saved({"input": torch.ones(1)})
    for headers in ([kind, coded], [kind, coded, ("Content-Encoding", "identity")]):
        problem(await client.post("/v1/layers/relu", content=body, headers=headers), 415)


@pytest.mark.parametrize(
    ("tensors", "request_", "pointer", "named"),
    [
        ({"input": "float16"}, {}, None, "float16"),
        ({"input": "float16"}, {"dtype": "float16"}, None, "float16"),
        ({"input": "bfloat16"}, {"compute_dtype": "float64"}, None, "bfloat16"),
        ({"input": "float16"}, {"dtype": "bfloat16"}, "#/input", "float16 bfloat16"),
        ({"input": "float32"}, {"dtype": "float64"}, "#/input", "float32 float64"),
        ({"input": "float32"}, {"dtype": None}, "#/dtype", ""),
        ({"input": "float32"}, {"dtype": 32}, "#/dtype", ""),
        ({"input": "float32", "weight": "float64"}, {}, "#/weight", "float32 float64"),
        ({"input": "float64", "weight": "float32"}, {}, "#/weight", "float32 float64"),
        ({"input": "float16", "bias": "float32"}, {}, "#/bias", "float32 float16"),
        ({"input": "float16", "grad_output": "float64"}, {}, "#/grad_output", "float16 float64"),
        ({"input": "float16", "grad_output": "int64"}, {}, "#/grad_output", "float16 int64"),
        ({"input": "int32"}, {}, "", ""),
    ],
)
async def test_the_dtype_is_the_inputs(
    client: httpx.AsyncClient,
    tensors: dict[str, str],
    request_: dict[str, object],
    pointer: str | None,
    named: str,
) -> None:
    shapes = {"input": (2, 3), "grad_output": (2, 3)}
    body = saved(
        {name: torch.ones(shapes.get(name, (3,)), dtype=DTYPES[dtype])
         for name, dtype in tensors.items()}, axis=-1, **request_,
    )  # fmt: skip
    response = await post(client, "layer_norm", body)
    if pointer is None:
        found, rest = opened(response)
        assert (rest["dtype"], found["output"].dtype) == (named, DTYPES[named])
        return
    wrong = problem(response, 422)
    assert not pointer or [error["pointer"] for error in wrong["errors"]] == [pointer]
    assert set(named.split()) <= set(wrong["detail"].replace(";", " ").replace(",", " ").split())


async def test_indices_of_integers_are_not_as_narrow(client: httpx.AsyncClient) -> None:
    body = {"input": [[[*[0] * 199, 1]]], "dtype": "int8", "kernel_size": 200}
    answer = await client.post("/v1/layers/max_pool1d", json={**body, "return_indices": True})
    assert answer.json()["indices"] == [[[199]]]


async def test_indices_have_a_dtype_of_their_own(client: httpx.AsyncClient) -> None:
    x, indices = torch.tensor([[[5.0]]], dtype=torch.float16), torch.tensor([[[1]]])
    body = saved({"indices": indices, "input": x}, kernel_size=2)
    tensors, rest = opened(await post(client, "max_unpool1d", body))
    assert bits(tensors["output"]) == bits(torch.tensor([[[0.0, 5.0]]], dtype=torch.float16))
    assert rest["dtype"] == "float16"
    body = saved({"indices": indices.int(), "input": x}, kernel_size=2)
    wrong = problem(await post(client, "max_unpool1d", body), 422)
    assert wrong["errors"][0]["pointer"] == "#/indices"


async def test_every_tensor_field_takes_base64(client: httpx.AsyncClient) -> None:
    x = torch.tensor([[1.0, 4.0], [2.0, -8.0]], dtype=torch.bfloat16)
    ones = torch.ones(2, dtype=torch.bfloat16)
    others: list[object] = [[[1, 2]], {"shape": [1, 2], "data": [3, 4]}]
    body = {
        "inputs": [packed(x), *others],
        "grad_outputs": [packed(x), packed(x[:1]), packed(x[1:])],
        "weight": packed(ones), "bias": [0, 0], "running_mean": packed(ones),
        "running_var": packed(ones), "dtype": "bfloat16", "training": True, "encoding": "base64",
    }  # fmt: skip
    answer = (await post(client, "sync_batch_norm", body, JSON)).json()
    numbers: dict[str, Any] = {**body, "weight": [1, 1], "running_mean": [1, 1]}
    numbers |= {"inputs": [x.tolist(), *others], "running_var": [1, 1]}
    numbers |= {"grad_outputs": [x.tolist(), x[:1].tolist(), x[1:].tolist()]}
    assert answer["outputs"][0]["shape"] == [2, 2]
    assert answer == (await post(client, "sync_batch_norm", numbers, JSON)).json()
    for part in (answer["outputs"][0], answer["running_stats"]["mean"]):
        assert part.keys() == {"shape", "dtype", "base64"}
        assert part["dtype"] == "bfloat16"
    unpool = {"input": [[[5]]], "indices": packed(torch.tensor([[[1]]])), "kernel_size": 2}
    answer = (await post(client, "max_unpool1d", unpool, JSON)).json()
    assert answer["output"] == [[[0.0, 5.0]]]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        (
            [{"base64": text} for text in (
                "AACAPwAAAM", "AACAPwAAAMA", "AACAPwAAAMA==", "AACAPwAAAMA=AAAA",
                "AACAPw==AAAAwA==", "AACAPwAAA-_=", "AACAPwAAAM\u00c0=", "AACAPw\0AAAMA=",
                " AACAPwAAAMA=", "AACAPwAAAMA=\n", "AACA PwAAAMA=", "AACAPwAA\r\nAMA=",
                "AACAPwAAAA==", "AACAPwAAAMAA", "", "====", "data:;base64,AACAPwAAAMA=",
            )],
            "#/input/base64",
        ),
        ([{"shape": [3]}, {"shape": [2**16] * 4}], "#/input/base64"),
        ([{"dtype": name} for name in ("float64", "int32", "F32", ["float32"])], "#/input/dtype"),
        ([{"base64": ["AACAPwAAAMA="]}, {"base64": 3}], "#/input"),
        ([{"shape": [2.0]}, {"shape": [-1, -2]}, {"shape": [True, 2]}, {"shape": 2}], "#/input"),
        ([{"shape": [1] * 8 + [2]}, {"data": [1, -2]}, {"more": 1}], "#/input"),
        ([{"dtype": ...}, {"shape": ...}], "#/input"),
    ],
)  # fmt: skip
async def test_broken_base64(
    client: httpx.AsyncClient, changes: list[dict[str, Any]], pointer: str
) -> None:
    whole = {"shape": [2], "dtype": "float32", "base64": "AACAPwAAAMA="}
    assert (await post(client, "relu", {"input": whole}, JSON)).json()["output"] == [1, 0]
    for change in changes:
        broken = {key: value for key, value in {**whole, **change}.items() if value is not ...}
        wrong = problem(await post(client, "relu", {"input": broken}, JSON), 422)
        assert [error["pointer"] for error in wrong["errors"]] == [pointer], change
        assert "AACAPw" not in wrong["detail"]


async def test_a_base64_of_another_dtype_is_told_both(client: httpx.AsyncClient) -> None:
    body = {"input": packed(torch.ones(1, dtype=torch.float64)), "dtype": "float32"}
    detail = problem(await post(client, "relu", body), 422)["detail"]
    assert detail == "input: expected dtype float32; got float64"
