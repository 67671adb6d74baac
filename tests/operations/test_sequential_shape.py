"""Shapes, parameters, multiply-adds, and receptive fields of the stems of known networks, derived
by hand, and against torch on the meta device.
"""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.anyio
PATH = "/v1/sequential/shape"
RELU = {"layer": "relu"}
POOL = {"layer": "max_pool2d", "kernel_size": 2}


def conv(out: int, kernel: int, **options: Any) -> dict[str, Any]:
    return {"layer": "conv2d", "out_channels": out, "kernel_size": kernel, **options}


async def asked(client: httpx.AsyncClient, shape: list[int], *layers: Any, **rest: Any) -> Any:
    body = {"input_shape": shape, "layers": layers, **rest}
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def column(answer: Any, name: str) -> list[Any]:
    return [layer.get(name) for layer in answer["layers"]]


def squared(*lengths: int) -> list[list[int]]:
    return [[length, length] for length in lengths]


async def test_the_first_two_blocks_of_vgg_16(client: httpx.AsyncClient) -> None:
    """Configuration D of arXiv:1409.1556: 3x3 windows with padding 1, 2x2 max pooling.

    Receptive field r and jump j: a 3x3 conv adds 2 j to r, a 2x2 pool with stride 2 adds j and
    doubles j. So r = 3, 5, 6 (j 2), 10, 14, 16 (j 4), and each conv moves the start back by j.
    Parameters: 3*3*3*64 + 64 = 1,792, 3*3*64*64 + 64 = 36,928, 3*3*64*128 + 128 = 73,856 and
    3*3*128*128 + 128 = 147,584. Multiply-adds: weights times output positions, which are 224^2 =
    50,176 and then 112^2 = 12,544: 1,728 * 50,176 = 86,704,128, 36,864 * 50,176 = 1,849,688,064,
    73,728 * 12,544 = 924,844,032 and 147,456 * 12,544 = 1,849,688,064.
    """
    block = [conv(64, 3, padding=1), RELU, conv(64, 3, padding=1), RELU, POOL]
    second = [conv(128, 3, padding=1), RELU, conv(128, 3, padding=1), RELU, POOL]
    answer = await asked(client, [1, 3, 224, 224], *block, *second)
    assert answer["output_shape"] == [1, 128, 56, 56]
    assert column(answer, "receptive_field") == squared(3, 3, 5, 5, 6, 10, 10, 14, 14, 16)
    assert column(answer, "receptive_field_start") == squared(
        -1, -1, -2, -2, -2, -4, -4, -6, -6, -6
    )
    assert column(answer, "cumulative_stride") == squared(1, 1, 1, 1, 2, 2, 2, 2, 2, 4)
    assert column(answer, "parameters") == [1792, 0, 36928, 0, 0, 73856, 0, 147584, 0, 0]
    assert answer["parameters"] == 260_160
    costs = column(answer, "multiply_adds")
    assert costs[::2][:2] == [86_704_128, 1_849_688_064]
    assert costs[5::2][:2] == [924_844_032, 1_849_688_064]
    # ReLU: one operation per element; pooling: four per output element.
    assert costs[1] == costs[3] == 64 * 224 * 224
    assert costs[4] == 4 * 64 * 112 * 112
    assert answer["multiply_adds"] == sum(costs)


async def test_the_stem_of_resnet_50(client: httpx.AsyncClient) -> None:
    """arXiv:1512.03385: 7x7 conv with stride 2, padding 3 and no bias, batch norm, ReLU, 3x3 max
    pool with stride 2 and padding 1, then a bottleneck's 1x1 and 3x3 convs.

    r = 1 + 6 = 7 (j 2), 7 + 2 * 2 = 11 (j 4), 11, 11 + 2 * 4 = 19. Start: -3, -3 - 1 * 2 = -5, -5,
    -5 - 1 * 4 = -9. Weights: 7*7*3*64 = 9,408, at 112^2 positions: 118,013,952 multiply-adds;
    64*64 = 4,096 at 56^2 = 3,136: 12,845,056; 3*3*64*64 = 36,864 at 3,136: 115,605,504. A batch
    norm has 2 * 64 parameters.
    """
    norm = {"layer": "batch_norm2d"}
    pool = {"layer": "max_pool2d", "kernel_size": 3, "stride": 2, "padding": 1}
    answer = await asked(
        client,
        [1, 3, 224, 224],
        *(conv(64, 7, stride=2, padding=3, bias=False), norm, RELU, pool),
        *(conv(64, 1, bias=False), norm, RELU, conv(64, 3, padding=1, bias=False), norm, RELU),
    )
    assert answer["output_shape"] == [1, 64, 56, 56]
    assert column(answer, "receptive_field") == squared(7, 7, 7, 11, 11, 11, 11, 19, 19, 19)
    assert column(answer, "receptive_field_start") == squared(*[-3] * 3, *[-5] * 4, *[-9] * 3)
    assert column(answer, "cumulative_stride") == squared(2, 2, 2, *[4] * 7)
    assert column(answer, "parameters") == [9408, 128, 0, 0, 4096, 128, 0, 36864, 128, 0]
    assert answer["layers"][0]["parameter_shapes"] == {"weight": [64, 3, 7, 7]}
    costs = column(answer, "multiply_adds")
    assert (costs[0], costs[4], costs[7]) == (118_013_952, 12_845_056, 115_605_504)


async def test_dilation_widens_the_receptive_field(client: httpx.AsyncClient) -> None:
    """The context module of arXiv:1511.07122, table 1: 3x3 convs with dilation 1, 1, 2, 4, 8, 16
    and 1, whose receptive fields are 3, 5, 9, 17, 33, 65 and 67, and then a 1x1 conv.
    """
    layers = [conv(1, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 8, 16, 1)]
    answer = await asked(client, [1, 1, 80, 80], *layers, conv(1, 1))
    assert column(answer, "receptive_field") == squared(3, 5, 9, 17, 33, 65, 67, 67)
    assert column(answer, "receptive_field_start") == squared(-1, -2, -4, -8, -16, -32, -33, -33)
    assert column(answer, "cumulative_stride") == squared(*[1] * 8)


async def test_axes_are_followed_one_by_one(client: httpx.AsyncClient) -> None:
    """Kernel 3 by 5, stride 2 by 1, padding 0 and 4 before: r = 3 and 5, then + 1 * 2 and + 1."""
    first = conv(2, 1) | {"kernel_size": [3, 5], "stride": [2, 1], "padding": [[0, 1], [4, 0]]}
    answer = await asked(client, [1, 3, 20, 20], RELU, first, POOL)
    assert column(answer, "receptive_field") == [[1, 1], [3, 5], [5, 6]]
    assert column(answer, "receptive_field_start") == [[0, 0], [0, -4], [0, -4]]
    assert column(answer, "cumulative_stride") == [[1, 1], [2, 1], [4, 2]]


@pytest.mark.parametrize(
    "end", [{"layer": "global_avg_pool"}, {"layer": "adaptive_max_pool2d", "output_size": 3}]
)
async def test_global_and_adaptive_layers_see_everything(
    client: httpx.AsyncClient, end: Any
) -> None:
    answer = await asked(client, [2, 3, 40, 30], conv(4, 3), end, conv(5, 1))
    assert column(answer, "receptive_field") == [[3, 3], [40, 30], [40, 30]]
    assert column(answer, "receptive_field_start") == [[0, 0]] * 3
    assert column(answer, "cumulative_stride") == [[1, 1], None, None]


async def test_the_receptive_field_is_what_a_gradient_reaches(client: httpx.AsyncClient) -> None:
    """Not by the rule: where the gradient of one position of ones arrives."""
    layers = [conv(1, 3, stride=2), conv(1, 2, dilation=3), {**POOL, "layer": "avg_pool2d"}]
    answer = await asked(client, [1, 1, 31, 31], *layers)
    x = torch.randn(1, 1, 31, 31, requires_grad=True)
    y = torch.nn.functional.conv2d(x, torch.ones(1, 1, 3, 3), stride=2)
    y = torch.nn.functional.conv2d(y, torch.ones(1, 1, 2, 2), dilation=3)
    y = torch.nn.functional.avg_pool2d(y, 2)
    for at in (0, 1):
        (grad,) = torch.autograd.grad(y[0, 0, at, at], x, retain_graph=True)
        rows = grad[0, 0].any(1).nonzero().flatten().tolist()
        last = answer["layers"][-1]
        start = last["receptive_field_start"][0] + at * last["cumulative_stride"][0]
        assert (start, last["receptive_field"][0]) == (rows[0], rows[-1] - rows[0] + 1)


async def test_both_layouts_have_the_same_numbers(client: httpx.AsyncClient) -> None:
    layers = [conv(8, 3, padding=1), {"layer": "batch_norm2d"}, RELU, POOL]
    first = await asked(client, [2, 3, 16, 12], *layers)
    last = await asked(client, [2, 16, 12, 3], *layers, layout="channels_last")
    assert last["output_shape"] == [2, 8, 6, 8]
    for name in ("parameters", "multiply_adds", "receptive_field", "cumulative_stride"):
        assert column(first, name) == column(last, name)
    keras = await asked(client, [2, 16, 12, 3], *layers, convention="keras")
    assert keras["output_shape"] == [2, 8, 6, 8]


async def test_other_layouts_in_between_end_what_is_known(client: httpx.AsyncClient) -> None:
    turned = {**POOL, "layout": "channels_last"}
    answer = await asked(client, [1, 4, 8, 8], POOL, turned, POOL)
    assert answer["output_shape"] == [1, 2, 1, 2]
    assert column(answer, "receptive_field") == [[2, 2], None, None]


async def test_nothing_is_allocated(client: httpx.AsyncClient) -> None:
    """2^60 elements; the numbers are exact beyond 64 bits."""
    shape = [2**20, 3, 2**20, 2**20]
    answer = await asked(client, shape, conv(4, 3, padding=1), RELU)
    assert answer["layers"][0]["multiply_adds"] == 2**60 * 4 * 27


async def test_shapes_agree_with_the_chain(client: httpx.AsyncClient) -> None:
    """The same chain with data answers the same shapes, and gradients of the counted parameters."""
    numbers = np.random.default_rng(0).standard_normal
    shapes = await asked(client, [2, 3, 9, 9], conv(4, 3), {"layer": "group_norm", "num_groups": 2})
    body = {
        "input": numbers((2, 3, 9, 9)).tolist(),
        "layers": [
            {"layer": "conv2d", "weight": numbers((4, 3, 3, 3)).tolist()},
            {"layer": "group_norm", "num_groups": 2},
        ],
        "grad_output": "ones",
    }
    answer = (await client.post("/v1/sequential", json=body)).json()
    for layer, told in zip(answer["layers"], shapes["layers"], strict=True):
        assert layer["output_shape"] == told["output_shape"]
        counted = {name: list(np.shape(value)) for name, value in layer["gradients"].items()}
        assert counted == told["parameter_shapes"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no layers": ({"layers": []}, "#/layers"),
    "a layer of no name": ({"layers": [RELU, {}]}, "#/layers/1/layer"),
    "a tensor": ({"layers": [{**conv(1, 1), "bias": [1]}]}, "#/layers/0/bias"),
    "a weight": ({"layers": [{**conv(1, 1), "weight": [[[[1]]]]}]}, "#/layers/0/weight"),
    "its own input": ({"layers": [RELU, {**RELU, "input_shape": [1]}]}, "#/layers/1/input_shape"),
    "no kernel": ({"layers": [RELU, {"layer": "max_pool2d"}]}, "#/layers/1/kernel_size"),
    "a wrong rank": ({"layers": [{"layer": "max_pool1d", "kernel_size": 1}]}, "#/input_shape"),
    "too large": ({"layers": [RELU, {**POOL, "kernel_size": 9}]}, "#/layers/1/kernel_size"),
    "a rank in between": (
        {"layers": [{"layer": "global_avg_pool", "keepdims": False}, POOL]},
        "#/layers/1",
    ),
    "several inputs": ({"layers": [RELU, {"layer": "max_unpool2d"}]}, "#/layers/1/layer"),
    "a word": ({"layers": "relu"}, "#/layers"),
}


@pytest.mark.parametrize("wrong", REFUSED)
async def test_errors_point_into_the_chain(client: httpx.AsyncClient, wrong: str) -> None:
    body, pointer = REFUSED[wrong]
    response = await client.post(PATH, json={"input_shape": [1, 4, 8, 8], **body})
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"] == pointer, response.text


async def test_the_answer_is_what_the_document_says(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    described = document["paths"][PATH]["post"]
    example = described["requestBody"]["content"]["application/json"]["example"]
    assert described["operationId"] == "sequentialShape"
    answer = (await client.post(PATH, json=example)).json()
    known = document["components"]["schemas"]["LayerShape"]["properties"]
    assert set(answer["layers"][0]) <= set(known), json.dumps(answer)
