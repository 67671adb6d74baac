"""`convention: "onnx"` against the operators of ONNX, by its reference evaluator.

ONNX defines no gradients. Where the evaluator departs from the operator's own text, the
expectation is a loop over windows, and a comment says why.
"""

from typing import Any

import numpy as np
import pytest
import torch

from app.compute import Engine
from tests.conftest import compute
from tests.conventions import LENGTHS, by_windows, close, parameters, sample, statistics

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")

OPSET = 23
SMALL = 0.01
CHANNELS = 4
DIMS = pytest.mark.parametrize("dims", [1, 2, 3])
Tensors = list[torch.Tensor]


def evaluate(operator: str, *inputs: torch.Tensor, outputs: int = 1, **attributes: Any) -> Tensors:
    """The outputs of one node."""
    feeds = {f"in{i}": tensor.numpy() for i, tensor in enumerate(inputs)}
    names = [f"out{i}" for i in range(outputs)]
    node = onnx.helper.make_node(operator, list(feeds), names, **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    results = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "node", infos, results),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )
    arrays = reference.ReferenceEvaluator(model).run(None, feeds)
    return [torch.from_numpy(np.array(array)) for array in arrays]


def feature_map(dims: int, channels: int = CHANNELS, scale: float = 1.0) -> torch.Tensor:
    return sample(2, channels, *LENGTHS[:dims], scale=scale)


def answer(engine: Engine, name: str, x: torch.Tensor, **options: Any) -> dict[str, Any]:
    return compute(engine, name, {"input": x, "convention": "onnx", **options})


def pooling(dims: int, kernel: int = 3, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of ours and attributes of theirs; `pads` is [before, after], the same on each axis.

    What is not given is left out on both sides.
    """
    ours: dict[str, Any] = {"kernel_size": kernel}
    theirs: dict[str, Any] = {"kernel_shape": [kernel] * dims}
    for option, attribute in (("stride", "strides"), ("dilation", "dilations")):
        if option in given:
            ours[option], theirs[attribute] = given[option], [given[option]] * dims
    if "pads" in given:
        before, after = given["pads"]
        ours["padding"] = [[before, after]] * dims
        theirs["pads"] = [before] * dims + [after] * dims
    if "auto_pad" in given:
        ours["padding"], theirs["auto_pad"] = given["auto_pad"], given["auto_pad"].upper()
    for flag in ("ceil_mode", "count_include_pad"):
        if flag in given:
            ours[flag], theirs[flag] = given[flag], int(given[flag])
    if "p" in given:
        ours["norm_type"], theirs["p"] = float(given["p"]), given["p"]
    return ours, theirs


WINDOWS: list[dict[str, Any]] = [
    {"stride": 2},
    {"stride": 2, "pads": [2, 1]},
    {"stride": 2, "pads": [2, 2]},  # more than half the kernel
    {"dilation": 2},
    {"stride": 2, "ceil_mode": True},
    {"stride": 2, "pads": [1, 2], "ceil_mode": True},  # a window that would hold no element
    {"stride": 2, "auto_pad": "same_upper"},
    {"stride": 2, "auto_pad": "valid"},
]


@DIMS
@pytest.mark.parametrize("given", [{}, *WINDOWS])
def test_max_pool(engine: Engine, dims: int, given: dict[str, Any]) -> None:
    x, (ours, theirs) = feature_map(dims), pooling(dims, **given)
    (expected,) = evaluate("MaxPool", x, **theirs)
    close(answer(engine, f"max_pool{dims}d", x, **ours)["output"], expected)


@DIMS
def test_max_pool_with_pads_moves_by_one(engine: Engine, dims: int) -> None:
    # The evaluator reads pads in another order where every stride is 1.
    x, outputs = feature_map(dims), [n + 1 for n in LENGTHS[:dims]]
    expected = by_windows(x, 3, 1, [2] * dims, outputs, lambda w: w.amax(-1))
    options = {"kernel_size": 3, "padding": [[2, 1]] * dims}
    close(answer(engine, f"max_pool{dims}d", x, **options)["output"], expected)


@DIMS
def test_max_pool_same_lower_pads_more_before(engine: Engine, dims: int) -> None:
    # The evaluator rounds the output's length down here, and pads more behind.
    x = sample(2, CHANNELS, *([8] * dims))
    expected = by_windows(x, 3, 2, [1] * dims, [4] * dims, lambda w: w.amax(-1))
    options = {"kernel_size": 3, "stride": 2, "padding": "same_lower"}
    close(answer(engine, f"max_pool{dims}d", x, **options)["output"], expected)


@DIMS
@pytest.mark.parametrize(("order", "storage_order"), [("row", 0), ("column", 1)])
@pytest.mark.parametrize("given", WINDOWS)
def test_indices_count_the_whole_tensor(
    engine: Engine, dims: int, order: str, storage_order: int, given: dict[str, Any]
) -> None:
    x, (ours, theirs) = feature_map(dims), pooling(dims, **given)
    _, expected = evaluate("MaxPool", x, outputs=2, storage_order=storage_order, **theirs)
    # Row-major is what the option's default must mean.
    ours |= {"return_indices": True} | ({"storage_order": order} if storage_order else {})
    assert torch.equal(answer(engine, f"max_pool{dims}d", x, **ours)["indices"], expected)


AVERAGES: list[dict[str, Any]] = [
    {},
    {"pads": [2, 1]},
    {"pads": [2, 1], "count_include_pad": True},
    {"stride": 2, "pads": [1, 1], "ceil_mode": True, "count_include_pad": True},
    {"stride": 2, "auto_pad": "same_lower"},
    *WINDOWS,
]


OURS: dict[str, Any] = {"kernel_size": 2, "dilation": 8, "padding": [[3, 5]], "stride": 2}
THEIRS: dict[str, Any] = {"kernel_shape": [2], "dilations": [8], "pads": [3, 5], "strides": [2]}
"""Windows over seven elements, one of which holds none."""


def test_windows_beside_one_with_only_padding(engine: Engine) -> None:
    # ONNX does not define the maximum of nothing: the evaluator's is NaN, and its index the one
    # before the plane's first.
    x = feature_map(1)
    output, indices = evaluate("MaxPool", x, outputs=2, **THEIRS)
    empty = output.isnan()
    assert indices[empty].tolist() == [plane * LENGTHS[0] - 1 for plane in range(2 * CHANNELS)]
    options = {**OURS, "return_indices": True, "empty_window": "zero"}
    found = answer(engine, "max_pool1d", x, **options)
    assert torch.equal(found["indices"], indices.masked_fill(empty, -1))
    close(found["output"], output.masked_fill(empty, 0.0))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_an_average_of_only_padding_is_no_number(engine: Engine) -> None:
    x = feature_map(1)
    (output,) = evaluate("AveragePool", x, **THEIRS)
    assert output.isnan().any()
    found = answer(engine, "avg_pool1d", x, **OURS, empty_window="zero")
    close(found["output"], output.nan_to_num(0.0))


@DIMS
@pytest.mark.parametrize("given", AVERAGES)
def test_avg_pool(engine: Engine, dims: int, given: dict[str, Any]) -> None:
    x, (ours, theirs) = feature_map(dims), pooling(dims, **given)
    (expected,) = evaluate("AveragePool", x, **theirs)
    close(answer(engine, f"avg_pool{dims}d", x, **ours)["output"], expected)


LP: list[dict[str, Any]] = [
    {"p": 2, "stride": 2},
    {"p": 1, "stride": 2, "pads": [2, 1]},
    {"p": 3},
    {"p": 2, "dilation": 2},
    {"p": 3, "stride": 2, "auto_pad": "same_upper"},
    {"p": 2, "stride": 2, "pads": [1, 2], "ceil_mode": True},
]


@DIMS
@pytest.mark.parametrize("given", LP)
def test_lp_pool(engine: Engine, dims: int, given: dict[str, Any]) -> None:
    x, (ours, theirs) = feature_map(dims), pooling(dims, **given)
    (expected,) = evaluate("LpPool", x, **theirs)
    close(answer(engine, f"lp_pool{dims}d", x, **ours)["output"], expected)


@DIMS
def test_lp_pool_sums_what_a_partial_window_holds(engine: Engine, dims: int) -> None:
    # The evaluator scales such a window up to a full one; the operator's text does not.
    x = sample(2, CHANNELS, *([8] * dims))
    expected = by_windows(x, 3, 2, [0] * dims, [4] * dims, lambda w: w.norm(3, -1))
    options = {"norm_type": 3.0, "kernel_size": 3, "stride": 2, "ceil_mode": True}
    close(answer(engine, f"lp_pool{dims}d", x, **options)["output"], expected)


@DIMS
def test_global_pools_keep_their_axes(engine: Engine, dims: int) -> None:
    x, axes = feature_map(dims), tuple(range(2, dims + 2))
    (average,) = evaluate("GlobalAveragePool", x)
    close(answer(engine, "global_avg_pool", x)["output"], average)
    # The evaluator's GlobalMaxPool reduces the right axes only where there are two.
    close(answer(engine, "global_max_pool", x)["output"], x.amax(axes, keepdim=True))


def some_indices(dims: int, space: list[int]) -> torch.Tensor:
    """Distinct positions in (2, CHANNELS, *space), each in the plane of its own element."""
    area = int(np.prod(space))
    order = sample(2, CHANNELS, area, seed=5).argsort(-1)[..., : 2**dims]
    planes = torch.arange(2 * CHANNELS).view(2, CHANNELS, 1) * area
    return (order + planes).view(2, CHANNELS, *([2] * dims))


@DIMS
@pytest.mark.parametrize(
    ("given", "default", "asked"),
    [
        ({}, 3, None),
        ({"stride": 2}, 4, None),
        ({"stride": 3}, 5, None),
        ({"stride": 3, "pads": [1, 0]}, 4, None),
        ({"stride": 2}, 4, 4),
        ({"stride": 2}, 4, 5),
        ({}, 3, 6),
    ],
)
def test_max_unpool(
    engine: Engine, dims: int, given: dict[str, Any], default: int, asked: int | None
) -> None:
    """Indices number positions in the default size, also where another size is asked for."""
    x, indices = sample(2, CHANNELS, *([2] * dims)), some_indices(dims, [default] * dims)
    ours, theirs = pooling(dims, 2, **given)
    shapes = []
    if asked:
        ours["output_size"] = [asked] * dims
        shapes.append(torch.tensor([2, CHANNELS, *([asked] * dims)]))
    (expected,) = evaluate("MaxUnpool", x, indices, *shapes, **theirs)
    close(answer(engine, f"max_unpool{dims}d", x, indices=indices, **ours)["output"], expected)


def test_max_unpool_undoes_max_pool(engine: Engine) -> None:
    x = sample(2, CHANNELS, 6, 8)
    pooled = answer(engine, "max_pool2d", x, kernel_size=2, stride=2, return_indices=True)
    y, indices = pooled["output"], pooled["indices"]
    (expected,) = evaluate("MaxUnpool", y, indices, kernel_shape=[2, 2], strides=[2, 2])
    back = answer(engine, "max_unpool2d", y, indices=indices, kernel_size=2, stride=2)
    close(back["output"], expected)


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_batch_norm(engine: Engine, dims: int) -> None:
    x = feature_map(dims, scale=SMALL) if dims else sample(6, CHANNELS, scale=SMALL)
    values = parameters(CHANNELS) | statistics(CHANNELS, SMALL)
    name = f"batch_norm{dims or 1}d"
    output, mean, var = evaluate(
        "BatchNormalization", x, *values.values(), outputs=3, training_mode=1
    )
    trained = answer(engine, name, x, training=True, **values)
    close(trained["output"], output)
    close(trained["running_stats"]["mean"], mean)
    close(trained["running_stats"]["var"], var)
    (output,) = evaluate("BatchNormalization", x, *values.values())
    close(answer(engine, name, x, training=False, **values)["output"], output)


def test_one_value_a_channel_has_variance_zero(engine: Engine) -> None:
    x, values = sample(1, CHANNELS), parameters(CHANNELS) | statistics(CHANNELS, 1.0)
    output, mean, var = evaluate(
        "BatchNormalization", x, *values.values(), outputs=3, training_mode=1
    )
    trained = answer(engine, "batch_norm1d", x, training=True, **values)
    close(trained["output"], output)
    close(trained["running_stats"]["mean"], mean)
    close(trained["running_stats"]["var"], var)


@DIMS
def test_group_norm(engine: Engine, dims: int) -> None:
    x, values = feature_map(dims, scale=SMALL), parameters(CHANNELS)
    (expected,) = evaluate("GroupNormalization", x, *values.values(), num_groups=2)
    close(answer(engine, "group_norm", x, num_groups=2, **values)["output"], expected)


@DIMS
def test_instance_norm(engine: Engine, dims: int) -> None:
    x, values = feature_map(dims, scale=SMALL), parameters(CHANNELS)
    (expected,) = evaluate("InstanceNormalization", x, *values.values())
    close(answer(engine, "instance_norm", x, **values)["output"], expected)


@pytest.mark.parametrize("axis", [-1, 1, -2])
def test_layer_norm(engine: Engine, axis: int) -> None:
    x = feature_map(2, scale=SMALL)
    values = parameters(*x.shape[axis:])
    expected = evaluate("LayerNormalization", x, *values.values(), outputs=3, axis=axis)
    normalised = answer(engine, "layer_norm", x, axis=axis, **values)
    close(normalised["output"], expected[0])
    close(normalised["statistics"]["mean"].flatten(), expected[1].flatten())
    close(normalised["statistics"]["inv_std"].flatten(), expected[2].flatten())


@pytest.mark.parametrize("axis", [-1, 1, -2])
def test_rms_norm(engine: Engine, axis: int) -> None:
    x = feature_map(2, scale=SMALL)
    weight = parameters(*x.shape[axis:])["weight"]
    (expected,) = evaluate("RMSNormalization", x, weight, axis=axis)
    close(answer(engine, "rms_norm", x, axis=axis, weight=weight)["output"], expected)


@DIMS
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stride": 2, "pads": [2, 1]},
        {"dilation": 2, "pads": [1, 1]},
        {"stride": 2, "auto_pad": "same_upper"},
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv(engine: Engine, dims: int, given: dict[str, Any], groups: int) -> None:
    x, (ours, theirs) = feature_map(dims), pooling(dims, **given)
    del ours["kernel_size"], theirs["kernel_shape"]  # the weight says it
    weight, bias = sample(6, CHANNELS // groups, *([3] * dims), seed=1), sample(6, seed=2)
    (expected,) = evaluate("Conv", x, weight, bias, group=groups, **theirs)
    options = {"groups": groups, "weight": weight, "bias": bias, **ours}
    close(answer(engine, f"conv{dims}d", x, **options)["output"], expected)
