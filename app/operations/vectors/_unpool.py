"""Cases of max unpooling: what indices count, and where values go."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario

PAIR = {"kernel_size": 2, "stride": 2, "padding": 0}


def _positions(draw: Draw, batch: int, side: int) -> Array:
    """`(N, C, 2...)`: for each window of two, one of its positions in a plane of that side."""
    shape = (batch, 2, *(2,) * draw.dims)
    where: Array = np.zeros(shape, np.int64)
    corners = np.indices((2,) * draw.dims) * 2
    for axis in range(draw.dims):
        chosen = (draw.small(*shape, most=1) > 0).astype(np.int64)
        where = np.add(where * side, corners[axis] + chosen)
    return where


def numbered(where: Array, plane: Sequence[int], base: str, storage_order: str) -> Array:
    """Positions in planes of these lengths, as an index base counts them."""
    samples, channels = where.shape[:2]
    channel = np.arange(channels).reshape(1, -1, *(1,) * (where.ndim - 2))
    if base == "plane":
        return where
    if base == "tf":
        inner: Array = where * channels + channel
        return inner
    if storage_order == "column":
        along = np.unravel_index(where, plane)
        where = np.ravel_multi_index(along, plane, order="F")
    sample = np.arange(samples).reshape(-1, *(1,) * (where.ndim - 1))
    found: Array = where + (sample * channels + channel) * math.prod(plane)
    return found


def _unpool(base: str = "plane", order: str = "row", batch: int = 2, side: int = 4,
            **options: Any) -> Make:  # fmt: skip
    def body(draw: Draw) -> dict[str, Any]:
        where = _positions(draw, batch, side)
        indices = numbered(where, (side,) * draw.dims, base, order)
        named = {"index_base": base, "storage_order": order}
        x = draw.numbers(*where.shape)
        return {"input": x, "indices": indices, **PAIR, **named, **options}

    return body


def _repeated(draw: Draw) -> dict[str, Any]:
    """Overlapping windows all chose the element that they share."""
    shape = (2, 2, *(2,) * draw.dims)
    shared = (3**draw.dims - 1) // 2
    indices = np.full(shape, shared)
    own = {"kernel_size": 2, "stride": 1, "padding": 0, "index_base": "plane"}
    return {"input": draw.numbers(*shape), "indices": indices, **own}


def _valued(value: float) -> Make:
    def body(draw: Draw) -> dict[str, Any]:
        made = dict(_unpool()(draw))
        made["input"].reshape(-1)[::3] = value
        return made

    return body


SCENARIOS = (
    Scenario("values-return-to-their-positions", "Each value goes where its index says, and zeros "
             "elsewhere.", _unpool(index_space="output"), ("indices",)),
    Scenario("last-of-repeated-indices-wins", "Where windows overlap, indices repeat: the last "
             "value in row-major order stays, and each gets the gradient.", _repeated,
             ("indices", "overlap")),
    Scenario("indices-count-the-whole-tensor", "ONNX numbers all samples and channels through.",
             _unpool("onnx", index_space="output"), ("indices",)),
    Scenario("indices-in-column-major-order", "ONNX's storage_order of 1 numbers the spatial axes "
             "with the first varying fastest.", _unpool("onnx", "column", index_space="output"),
             ("indices",)),
    Scenario("indices-with-the-channel-varying-fastest", "TensorFlow numbers (y * W + x) * C + c, "
             "without the batch.", _unpool("tf", index_space="output"), ("indices",)),
    Scenario("output-size-restores-the-remainder", "A size that the stride does not divide is "
             "restored with `output_size`, in which the indices count.",
             _unpool(side=5, output_size=5, index_space="output"), ("indivisible", "indices")),
    Scenario("indices-count-in-the-default-size", "ONNX's indices count in the size without "
             "`output_shape`, which is then padded at the end.",
             _unpool(output_size=6, index_space="default"), ("indices", "padding")),
    Scenario("default-size-of-whole-tensor-indices", "Indices over the whole tensor also count in "
             "the default size.", _unpool("onnx", output_size=6, index_space="default"),
             ("indices", "padding")),
    Scenario("padding-shrinks-the-output", "Padding of the pooling is taken off the output's size, "
             "both ends together.", _unpool(kernel_size=3, stride=2, padding=[[0, 1]],
                                            index_space="output"), ("padding",)),
    Scenario("no-output-size", "null is the size without a remainder.",
             _unpool(output_size=None, index_space="output"), ("size",)),
    Scenario("stride-null-is-the-conventions-default", "Without a stride, it is the kernel size in "
             "torch and Keras, and 1 in ONNX and Flax.",
             _unpool(stride=None, kernel_size=3, side=4), ("stride",)),
    Scenario("nan-is-a-value", "NaN is put back like any value.", _valued(math.nan), ("nan",)),
    Scenario("minus-infinity-is-a-value", "-Infinity is put back like any value.",
             _valued(-math.inf), ("infinity",)),
    Scenario("negative-zero-keeps-its-sign", "-0.0 is put back as -0.0.", _valued(-0.0),
             ("zero",)),
    Scenario("gradient-of-ones", "With a gradient of ones, each input gets 1.",
             _unpool(gradient="ones"), ("size",)),
    Scenario("batch-of-one-channels-first", "With one sample, axes of length 1 are easily confused "
             "or squeezed away.", _unpool(batch=1, layout="channels_first"), ("layout",)),
    Scenario("batch-of-one-channels-last", "With one sample and channels last, strides are "
             "ambiguous.", _unpool(batch=1, layout="channels_last"), ("layout",)),
    Scenario("channels-last-interleaves-channels", "With channels last, neighbours in memory are "
             "channels, not positions.", _unpool("tf", layout="channels_last"), ("layout",)),
    Scenario("no-batch-axis", "A single sample without its batch axis is not read as a batch.",
             _unpool(batch=1, batched=False), ("layout",)),
    Scenario("empty-batch", "No samples give no outputs, with the other axes as usual.",
             _unpool(batch=0), ("layout",)),
)  # fmt: skip
