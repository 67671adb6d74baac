"""Cases of max pooling: padding that never wins, NaN, infinities, ties, indices."""

import math
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, float_with, floats, has, several_axes
from app.operations.vectors._windows import SIDES, numbered_image, window_scenarios


def _planted(value: float, *places: int, **options: Any) -> Make:
    """Windows of two along the last axis, with a value at these places of every second pair."""

    def body(draw: Draw) -> dict[str, Any]:
        x = draw.numbers(1, 2, *(1,) * (draw.dims - 1), 8)
        for place in places:
            x[..., place] = value
        return {"input": x, "kernel_size": [1, 1, 2][-draw.dims :], **options}

    return body


def _all_negative(draw: Draw) -> dict[str, Any]:
    x = -draw.positive(2, 2, *SIDES[draw.dims])
    return {"input": x, "kernel_size": 3, "stride": 2, "padding": 1}


def _lowest(draw: Draw) -> dict[str, Any]:
    x = draw.numbers(1, 2, *SIDES[draw.dims])
    x[:, 0] = -math.inf
    return {"input": x, "kernel_size": 2, "stride": 1, "return_indices": True}


def _lowest_padded(draw: Draw) -> dict[str, Any]:
    return {**_lowest(draw), "kernel_size": 3, "stride": 2, "padding": 1}


def _tied(**options: Any) -> Make:
    """Few different numbers, so that most windows have equal maxima."""

    def body(draw: Draw) -> dict[str, Any]:
        x = draw.small(1, 2, *SIDES[draw.dims], most=2)
        x = abs(x) if draw.is_integer else x
        kernel = [4, 2, 2][draw.dims - 1]
        return {"input": x, "kernel_size": kernel, "stride": 1, **options}

    return body


def _crossed(draw: Draw) -> dict[str, Any]:
    """The maximum stands at the end of the first row and at the start of the last."""
    plane: Array = np.array([[1, 3], [3, 2]])
    x = draw.small(1, 2, *(1,) * (draw.dims - 2), 1, 1) * 0 + plane
    return {"input": x, "kernel_size": [1, 2, 2][-draw.dims :], "return_indices": True}


def _zeros(draw: Draw) -> dict[str, Any]:
    x = -draw.positive(1, 2, *(1,) * (draw.dims - 1), 8)
    x[..., 0::4], x[..., 1::4] = -0.0, 0.0
    x[..., 2::4], x[..., 3::4] = 0.0, -0.0
    return {"input": x, "kernel_size": [1, 1, 2][-draw.dims :], "return_indices": True}


def _indexed(**options: Any) -> Make:
    """Padded, overlapping windows with indices."""

    def body(draw: Draw) -> dict[str, Any]:
        windows = {"kernel_size": 2, "stride": 1, "padding": 1, "return_indices": True}
        return {"input": numbered_image(draw), **windows, **options}

    return body


def _kept(draw: Draw) -> dict[str, Any]:
    """The last window of each odd axis, which ceil mode keeps, holds nothing but padding."""
    windows = {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True, "ceil_rule": "keep"}
    return {"input": numbered_image(draw), **windows}


INDICES = (
    Scenario("indices-ignore-the-padding", "Indices count positions of the unpadded plane, from 0, "
             "and restart in each sample and channel.",
             _indexed(index_base="plane", storage_order="row"), ("indices",)),
    Scenario("indices-count-the-whole-tensor", "ONNX numbers all samples and channels through.",
             _indexed(index_base="onnx", storage_order="row"), ("indices",)),
    Scenario("indices-in-column-major-order", "ONNX's storage_order of 1 numbers the spatial axes "
             "with the first varying fastest; the values stay where they are.",
             _indexed(index_base="onnx", storage_order="column"), ("indices",)),
    Scenario("indices-with-the-channel-varying-fastest", "TensorFlow numbers (y * W + x) * C + c, "
             "without the batch.", _indexed(index_base="tf"), ("indices",)),
    Scenario("indices-of-channels-last", "Indices number the same positions in either layout.",
             _indexed(layout="channels_last", index_base="plane"), ("indices", "layout")),
)  # fmt: skip

SCENARIOS = (
    *window_scenarios(numbered_image)[:3],
    Scenario("zero-padding-never-wins", "All numbers are negative beside the padding: padded with "
             "0, the maximum there is 0.", _all_negative, ("padding",), fits=floats),
    Scenario("nan-second-in-its-window", "NaN wins wherever it stands; `if x > max` lets it win "
             "only as the first.", _planted(math.nan, 1, 5), ("nan",), fits=floats),
    Scenario("nan-first-in-its-window", "NaN wins over the larger numbers after it.",
             _planted(math.nan, 2), ("nan",), fits=floats),
    Scenario("last-of-several-nans-gets-the-gradient", "Of several NaNs in a window, torch names "
             "the last, and it gets the gradient.",
             _planted(math.nan, 2, 3, 6, return_indices=True), ("nan", "indices"), fits=floats),
    Scenario("first-of-equal-maxima-gets-the-gradient", "Of equal maxima, the first in row-major "
             "order gets all of the gradient.", _tied(tie="first", return_indices=True), ("ties",)),
    Scenario("equal-maxima-share-the-gradient", "Equal maxima get equal shares.",
             _tied(tie="split"), ("ties",), fits=floats),
    Scenario("equal-maxima-all-get-the-gradient", "Each equal maximum gets the whole gradient.",
             _tied(tie="all"), ("ties",), fits=floats),
    Scenario("tie-across-rows", "The first maximum of a row-major scan is not that of a "
             "column-major one.", _crossed, ("ties", "indices"), fits=several_axes),
    Scenario("negative-zero-equals-zero", "-0.0 and 0.0 are a tie: the first wins and keeps its "
             "sign.", _zeros, ("ties", "zero"), fits=floats),
    Scenario("all-minus-infinity", "A channel of -Infinity has maxima, each the first of its "
             "window, with an index and a gradient.", _lowest, ("infinity", "indices"),
             fits=floats),
    Scenario("minus-infinity-beside-padding", "Padding with -Infinity must not win against a real "
             "-Infinity.", _lowest_padded, ("infinity", "padding"), fits=floats),
    Scenario("infinity-wins", "Infinity is an ordinary maximum.",
             _planted(math.inf, 1, 4), ("infinity",), fits=floats),
    *INDICES,
    Scenario("nan-ignored", "With `nan: ignore`, the largest number beside the NaN wins.",
             _planted(math.nan, 1, 2, nan="ignore", return_indices=True), ("nan",), fits=floats),
    Scenario("window-of-ignored-nans", "A window of nothing but ignored NaNs is -Infinity, and "
             "passes no gradient.", _planted(math.nan, 2, 3, nan="ignore"), ("nan",), fits=floats),
    Scenario("nan-propagates-beside-ties", "NaNs are equal to each other, and share the gradient "
             "as ties do.", _planted(math.nan, 2, 3, tie="split", nan="propagate"),
             ("nan", "ties"), fits=floats),
    Scenario("no-indices-unless-asked", "Without `return_indices` there are none.",
             lambda draw: {"input": numbered_image(draw), "kernel_size": 2,
                           "return_indices": False}, ("indices",)),
    Scenario("window-of-padding-is-zero", "A window without an element is 0, passes no gradient, "
             "and has the index -1.", lambda draw: {**_kept(draw), "empty_window": "zero",
                                                    "return_indices": True},
             ("empty-window", "padding"), fits=has("empty_window")),
    Scenario("window-of-padding-is-the-lowest-value", "A window without an element is -Infinity, "
             "or an integer's least value.", lambda draw: {**_kept(draw), "empty_window": "lowest"},
             ("empty-window", "padding"), fits=has("empty_window")),
    Scenario("no-window-of-padding-is-let-through", "Where every window has an element, refusing "
             "those without changes nothing.",
             lambda draw: {"input": numbered_image(draw), "kernel_size": 2, "padding": 1,
                           "empty_window": "refuse"}, ("empty-window",),
             fits=float_with("empty_window")),
    *window_scenarios(numbered_image)[3:],
)  # fmt: skip
