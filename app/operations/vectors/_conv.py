"""Cases of convolution, and of ReLU."""

import math
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, has, several_axes
from app.operations.vectors._windows import SIDES

BIAS = np.array([0.5, -1.0, 2.0, -4.0])


def _image(draw: Draw, batch: int = 2, channels: int = 2) -> Array:
    return draw.small(batch, channels, *SIDES[draw.dims], most=3)


def _conv(kernel: Any = 2, *, batch: int = 2, out: int = 4, groups: int = 1,
          biased: bool = False, **options: Any) -> Make:  # fmt: skip
    """`kernel` is one length for all axes, or one each, cut to the layer's."""

    def body(draw: Draw) -> dict[str, Any]:
        lengths = kernel[: draw.dims] if isinstance(kernel, tuple) else (kernel,) * draw.dims
        own = {k: v[: draw.dims] if isinstance(v, list) else v for k, v in options.items()}
        weight = draw.small(out, 2 // groups, *lengths, most=2)
        bias = {"bias": BIAS[:out]} if biased else {}
        return {"input": _image(draw, batch), "weight": weight, "groups": groups, **bias, **own}

    return body


def _swallowed(draw: Draw) -> dict[str, Any]:
    """A large product, then 63 ones: summed in a half dtype, the ones get lost."""
    large = {"float16": 2048, "bfloat16": 256}.get(draw.dtype, 2048)
    shape = (1, 64, *(1,) * (draw.dims - 1), 2)
    x = np.ones(shape)
    x[:, 0] = large
    weight = np.ones((2, 64, *(1,) * draw.dims))
    weight[1] = -1
    return {"input": x, "weight": weight}


def _planted(value: float) -> Make:
    def body(draw: Draw) -> dict[str, Any]:
        made = dict(_conv()(draw))
        made["input"][(0, 0, *(1,) * draw.dims)] = value
        return made

    return body


def _case(name: str, why: str, make: Make, *tags: str, **rest: Any) -> Scenario:
    return Scenario(name, why, make, tags, **rest)


CONV = (
    _case("overlapping-windows-add-gradients", "An element of several windows gets the sum of "
          "their gradients.", _conv(2, stride=1, padding=0), "overlap"),
    _case("stride-leaves-elements-out", "The stride does not divide the size: elements between "
          "and behind the windows get no gradient.", _conv(2, stride=3), "indivisible"),
    _case("kernel-is-not-flipped", "Frameworks compute a correlation: the kernel is not mirrored.",
          _conv((3, 2, 2), padding="valid"), "kernel"),
    _case("weight-is-out-by-in", "As many input channels as outputs: a transposed weight fits, and "
          "is wrong.", _conv(2, out=2), "kernel"),
    _case("padding-before-only", "Padding at the start alone shifts every window.",
          _conv(2, padding=[[1, 0]], stride=2), "padding"),
    _case("padding-after-only", "Padding at the end alone shifts no window.",
          _conv(2, padding=[[0, 1]], stride=2), "padding"),
    _case("padding-differs-per-axis", "Each end of each axis has its own padding.",
          _conv(3, padding=[[1, 0], [0, 1], [2, 1]], stride=2), "padding"),
    _case("padding-is-zero-not-the-edge", "Padding repeats nothing: it is 0.",
          _conv(3, padding=1, biased=True), "padding"),
    _case("padding-beyond-the-kernel", "A window may see nothing but padding; its output is the "
          "bias.", _conv(2, padding=3, biased=True), "padding"),
    _case("groups-see-their-own-channels", "With groups, each output sees the channels of its "
          "group alone, in order.", _conv(2, groups=2), "groups"),
    _case("more-outputs-per-group", "Depthwise with a multiplier: two outputs for each channel.",
          _conv(1, groups=2, stride=2), "groups"),
    _case("dilation-spreads-the-kernel", "The taps of a window are `dilation` elements apart.",
          _conv(2, dilation=2), "dilation"),
    _case("dilation-counts-from-the-padding", "The first tap lies in the padding, and the others "
          "follow from there.", _conv(2, dilation=2, padding=1), "dilation", "padding"),
    _case("dilation-differs-per-axis", "Each axis has its own dilation.",
          _conv(2, dilation=[2, 1, 2], padding=[0, 1, 1]), "dilation", fits=several_axes),
    _case("axes-have-their-own-window", "Kernel, stride and padding differ per axis; taken in "
          "reverse order they give another result.",
          _conv((2, 3, 1), stride=[1, 2, 1], padding=[0, 1, 0]), "axes", fits=several_axes),
    _case("same-upper-pads-more-at-the-end", "An odd total of `same` padding puts the larger half "
          "at the end.", _conv(2, padding="same_upper"), "padding"),
    _case("same-lower-pads-more-at-the-start", "An odd total of `same_lower` padding puts the "
          "larger half at the start.", _conv(2, padding="same_lower"), "padding"),
    _case("same-padding-depends-on-the-stride", "With a stride, `same` padding follows from what "
          "the last window needs.", _conv(3, padding="same", stride=2), "padding"),
    _case("bias-per-output", "Each output channel has its bias, and the bias's gradient is the "
          "sum over all positions.", _conv(2, biased=True), "affine"),
    _case("kernel-of-one", "A kernel of 1 mixes channels alone.", _conv(1), "size"),
    _case("kernel-covers-the-input", "One window: a dense layer.",
          lambda draw: {"input": _image(draw), "weight": draw.small(3, 2, *SIDES[draw.dims],
                                                                     most=1)}, "size"),
    _case("weight-in-oihw", "torch and ONNX keep weights as [out, in, *kernel].",
          _conv((2, 3, 1), weight_layout="oihw"), "kernel", fits=has("weight_layout")),
    _case("weight-in-hwio", "Keras and Flax keep weights as [*kernel, in, out], and so comes the "
          "gradient.", _conv((2, 3, 1), weight_layout="hwio"), "kernel", fits=has("weight_layout")),
    _case("weight-in-hwio-with-groups", "With groups, the channels per group stand before the "
          "outputs.", _conv((2, 3, 1), groups=2, weight_layout="hwio"), "kernel", "groups",
          fits=has("weight_layout")),
    _case("small-terms-vanish-beside-a-large-one", "Summed one after the other in a half dtype, "
          "the ones after the large number are lost.", _swallowed, "precision"),
    _case("nan-stays-in-its-windows", "NaN makes the windows that see it NaN.", _planted(math.nan),
          "nan"),
    _case("infinity-stays-in-its-windows", "Infinity makes the windows that see it infinite.",
          _planted(math.inf), "infinity"),
    _case("gradient-of-ones", "With a gradient of ones, the weight's gradient is the sum of what "
          "each tap sees.", _conv(2, gradient="ones"), "kernel"),
    _case("batch-of-one-channels-first", "With one sample, axes of length 1 are easily confused.",
          _conv(batch=1, layout="channels_first"), "layout"),
    _case("batch-of-one-channels-last", "With one sample and channels last, strides are "
          "ambiguous.", _conv(batch=1, layout="channels_last"), "layout"),
    _case("channels-last-interleaves-channels", "With channels last, neighbours in memory are "
          "channels.", _conv(layout="channels_last", biased=True), "layout"),
    _case("no-batch-axis", "A single sample without its batch axis is not read as a batch.",
          _conv(batch=1, batched=False), "layout"),
    _case("empty-batch", "No samples give no outputs, and gradients of 0 for weight and bias.",
          _conv(batch=0), "layout"),
)  # fmt: skip


def _values(*numbers: float) -> Make:
    return lambda draw: {"input": np.array([numbers, draw.numbers(len(numbers))])}


def _shaped(*shape: int) -> Make:
    return lambda draw: {"input": draw.numbers(*shape)}


RELU = (
    _case("gradient-at-zero-is-zero", "0 passes no gradient, from either side.",
          _values(0.0, -0.0, 0.125, -0.125), "zero"),
    _case("nan-passes", "NaN stays NaN, and its gradient passes.", _values(math.nan, 1.0), "nan"),
    _case("infinities", "Infinity stays, -Infinity becomes 0.", _values(math.inf, -math.inf),
          "infinity"),
    _case("negative-zero", "-0.0 becomes 0.", _values(-0.0, 0.0), "zero"),
    _case("all-negative", "Nothing passes.", lambda draw: {"input": -draw.positive(2, 3)}, "sign"),
    _case("one-element", "A vector of one element.", _shaped(1), "size"),
    _case("many-axes", "Any number of axes.", _shaped(1, 2, 3, 2, 1), "size"),
    _case("gradient-of-ones", "With a gradient of ones, the gradient is 1 or 0.",
          lambda draw: {"input": draw.numbers(2, 5), "gradient": "ones"}, "size"),
    _case("layout-changes-nothing", "`layout` says nothing here.",
          lambda draw: {"input": draw.numbers(1, 2, 3), "layout": "channels_last"}, "layout"),
    _case("layout-first-changes-nothing", "`layout` says nothing here.",
          lambda draw: {"input": draw.numbers(1, 2, 3), "layout": "channels_first"}, "layout"),
    _case("empty-batch", "No elements give no outputs.", _shaped(0, 3), "layout"),
    _case("batch-of-one", "One sample.", _shaped(1, 3), "layout"),
)  # fmt: skip
