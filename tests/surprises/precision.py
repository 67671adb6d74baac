"""Digits that are lost: rows 31, 34, 36, 43 to 45 and 48."""

import math
import random
from typing import Any

from app.codecs import json, nested, safetensors
from app.compute import Engine
from app.layers import LAYERS, compute_model, tensor_fields
from tests._binary import Tensors, bits, packed, saved
from tests.conftest import unwire
from tests.surprises.checks import (
    EPS,
    FLOAT32_3_3,
    Answers,
    Refuses,
    Surprise,
    as_doubles,
    constant,
    flat,
    normalised,
)

SIZES = ((1, 2, 3, 9), (2, 4, 3, 20), (4, 8, 3, 20), (1, 3, 5, 40), (2, 6, 2, 33), (3, 6, 1, 301))
"""Groups, channels, taps and positions of convolutions."""
ELSEWHERE = 8
"""How many places in memory each is sent to."""


def answers_both_forms_alike(engine: Engine) -> None:
    """A convolution's answer has the same bits wherever its tensors came to lie."""
    rng = random.Random(48)
    for groups, channels, taps, positions in SIZES:
        shapes = {
            "input": (1, channels, positions),
            "weight": (channels, channels // groups, taps),
            "grad_output": (1, channels, positions - taps + 1),
        }
        tensors = {
            name: as_doubles([rng.gauss(0, 1) for _ in range(math.prod(shape))]).view(shape)
            for name, shape in shapes.items()
        }
        as_json = {name: packed(tensor) for name, tensor in tensors.items()}
        body = b"".join(json.encode({**as_json, "groups": groups, "dtype": "float64"}))
        expected = answer_bits(engine, json, body)
        for place in range(ELSEWHERE):
            assert answer_bits(engine, safetensors, a_file(tensors, groups, place)) == expected


def a_file(tensors: Tensors, groups: int, place: int) -> bytearray:
    """A request as a file whose tensors lie `place` numbers further from the start."""
    spaces = 8 * place
    content = saved(tensors, groups=groups, dtype="float64")
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length] + b" " * spaces
    return bytearray((length + spaces).to_bytes(8, "little") + header + content[8 + length :])


def answer_bits(engine: Engine, codec: Any, body: bytes | bytearray) -> dict[str, object]:
    """The tensors that a convolution answers, to the last bit."""
    spec = LAYERS["conv1d"]
    fields = codec.decode(body, tensor_fields(spec), max_rank=8, max_list=64)
    call = compute_model(spec).model_validate(fields)
    answer = unwire(nested(engine.run(spec, call, engine.plan(spec, call)[0])))
    found = {"output": answer["output"], **answer["gradients"]}
    return {name: bits(tensor) for name, tensor in found.items()}


OFFSET = [1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3]
CENTRED = normalised([0, 1, 2, 3])
ROOT = math.sqrt(2.5)
"""The root mean square of (1, 2)."""
CANCELS = {"input": [[[8193, 8191]]], "weight": [[[8193, -8195]]]}
"""8193 * 8193 - 8191 * 8195 = 4; float32 rounds both products to 67,125,248."""

ROWS = (
    Surprise(
        31,
        "Any norm of float32 (0, 1, 2, 3) + 1e7",
        "Wrong in the first digit, because the mean is rounded to a whole number.",
        "Correct: if the mean is large relative to the spread, the input is centered in float64 "
        "first.",
        tuple(
            Answers(layer, {"input": data, **options}, {"output": output}, within=1e-6)
            for layer, data, options, output in (
                ("batch_norm1d", [[x] for x in OFFSET], {"training": True},
                 [[x] for x in CENTRED]),
                ("instance_norm", [[OFFSET]], {}, [[CENTRED]]),
                ("group_norm", [[OFFSET]], {"num_groups": 1}, [[CENTRED]]),
                ("layer_norm", [OFFSET], {"normalized_shape": [4]}, [CENTRED]),
            )
        ),
    ),
    Surprise(
        34,
        "`F.group_norm(x, 3, weight)`, x of (2, 3): one value per group",
        "Some elements are 3.05e-05 instead of 0: x and its mean are scaled separately before "
        "they are subtracted.",
        "The output is 0.",
        tuple(
            Answers("group_norm", {"input": [[[1], [2], [3]], [[4], [5], [6]]], "num_groups": 3,
                    "weight": [1, 1, 1], **more}, {"output": [[[0]] * 3] * 2})
            for more in ({}, {"compute_dtype": "float64"})
        ),
    ),
    Surprise(
        36,
        "`F.rms_norm` of bfloat16 with a float32 weight",
        "Warns, then takes a slower path.",
        "A request has one dtype: a weight with another dtype is refused. Half types are computed "
        "in float32 and rounded once.",
        (
            Refuses("rms_norm", {"input": [[2, 3]], "weight": {**flat((2,), [1, 5]),
                    "dtype": "float32"}, "normalized_shape": [2], "dtype": "bfloat16"},
                    "#/weight/dtype"),
            # 2 / sqrt(6.5) = 0.7845 and 15 / sqrt(6.5) = 5.8835; rounded twice, it were 5.90625.
            Answers("rms_norm", {"input": [[2, 3]], "weight": [1, 5], "normalized_shape": [2],
                    "eps": EPS, "dtype": "bfloat16"}, {"output": [[0.78515625, 5.875]]}),
        ),
    ),
    Surprise(
        43,
        "`F.avg_pool2d(x, 512)` of float32; `F.adaptive_avg_pool2d` to more than one window",
        "Sums element by element: if x is 3.3 everywhere, the average is off by 0.24 %, and by 1 "
        "% over 1,024x1,024.",
        "Averages are summed in float64 and rounded once.",
        tuple(
            Answers(layer, {"input": constant((1, 1, *shape), FLOAT32_3_3), **options},
                    {"output": [[output]]})
            for layer, shape, options, output in (
                ("avg_pool1d", (4096,), {"kernel_size": 4096}, [FLOAT32_3_3]),
                ("avg_pool2d", (512, 512), {"kernel_size": 512}, [[FLOAT32_3_3]]),
                ("avg_pool2d", (1024, 1024), {"kernel_size": 1024}, [[FLOAT32_3_3]]),
                ("adaptive_avg_pool2d", (512, 1024), {"output_size": [1, 2]}, [[FLOAT32_3_3] * 2]),
                ("global_avg_pool", (512, 512), {}, [[FLOAT32_3_3]]),
            )
        ),
    ),
    Surprise(
        44,
        "`F.rms_norm` of float32 [[1e15, 2e15]] and its gradient; of [[1e20, 2e20]]",
        "From about 1e14, the gradient is wrong: here it is (6.3e-16, 6.3e-16) instead of "
        "(2.53e-16, -1.26e-16). For 1e20, the output is 0, because the squares overflow.",
        "Sums the squares in float64, and divides before it multiplies: both are correct.",
        tuple(
            Answers("rms_norm", {"input": [[scale, 2 * scale]], "normalized_shape": [2],
                    "grad_output": "ones"}, {path: [numbers]}, within=1e-6 * abs(numbers[0]))
            for scale in (1e15, 1e20, 1e38)
            for path, numbers in (
                ("output", [1 / ROOT, 2 / ROOT]),
                # (1 - y * mean(y)) / rms, of which mean(y) = 1.5 / ROOT.
                ("gradients.input", [0.4 / ROOT / scale, -0.2 / ROOT / scale]),
            )
        ),
    ),
    Surprise(
        45,
        "Float32 gradients with many terms, such as the bias gradients of convolution and batch "
        "norm",
        "If the incoming gradient is 3.3 everywhere, the bias gradient of `conv2d` is off by 0.11 "
        "% over 4x256x256 positions (with two threads), and that of batch norm by 0.095 % over "
        "1,000,000 values.",
        "Adds at most 1,024 terms in float32, and the partial sums in float64. `explain` advises "
        "`precision-loss` if terms cancel.",
        (
            Answers("conv2d", {"input": constant((4, 1, 256, 256), 1), "weight": [[[[0]]]],
                    "bias": [0], "grad_output": constant((4, 1, 256, 256), FLOAT32_3_3)},
                    {"gradients.bias": [FLOAT32_3_3 * 2**18],
                     "gradients.weight": [[[[FLOAT32_3_3 * 2**18]]]]}, within=1),
            Answers("batch_norm1d", {"input": constant((1, 1, 10**6), 1), "training": True,
                    "weight": [1], "bias": [0],
                    "grad_output": constant((1, 1, 10**6), FLOAT32_3_3)},
                    {"gradients.bias": [FLOAT32_3_3 * 10**6]}, within=4),
            Answers("batch_norm1d", {"input": constant((1, 1, 10**6), 3), "training": False,
                    "running_mean": [1], "running_var": [4], "weight": [1], "bias": [0],
                    "eps": 0, "grad_output": constant((1, 1, 10**6), FLOAT32_3_3)},
                    {"gradients.weight": [FLOAT32_3_3 * 10**6],
                     "gradients.bias": [FLOAT32_3_3 * 10**6]}, within=4),
            Answers("conv1d", {**CANCELS, "compute_dtype": "float64"}, {"output": [[[4]]]}),
            Answers("conv1d", CANCELS, {"output_shape": (1, 1, 1)}, advice="precision-loss"),
        ),
    ),
    Surprise(
        48,
        "The weight gradient of `F.conv1d`",
        "The last bit depends on where the incoming gradient lies in memory: the same numbers "
        "give two different results.",
        "Aligns the tensors in memory: the same request gets the same answer bit for bit, in JSON "
        "and in safetensors.",
        (answers_both_forms_alike,),
    ),
)  # fmt: skip
