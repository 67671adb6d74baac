"""Cases of every layer with sliding windows: sizes, padding, ceil mode, dilation, layouts."""

from collections.abc import Callable
from typing import Any

from app.codecs import Array
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Scenario, not_torch, several_axes

Image = Callable[..., Array]
SIDES = {1: (7,), 2: (5, 4), 3: (3, 3, 3)}
"""Spatial lengths of the images."""


def numbered_image(draw: Draw, batch: int = 2, *sides: int) -> Array:
    """Different numbers."""
    return draw.numbers(batch, 2, *(sides or SIDES[draw.dims]))


def small_image(draw: Draw, batch: int = 2, *sides: int) -> Array:
    """Small integers, whose sums stay short."""
    return draw.small(batch, 2, *(sides or SIDES[draw.dims]))


def small_positive_image(draw: Draw, batch: int = 2, *sides: int) -> Array:
    """Small integers above 0."""
    return abs(small_image(draw, batch, *sides))


def window_scenarios(image: Image, **fixed: Any) -> tuple[Scenario, ...]:
    """The cases, with the images that suit the layer; `fixed` are more fields of each."""

    def case(name: str, why: str, tag: str, batch: int = 2, **options: Any) -> Scenario:
        fits = options.pop("fits", None)
        sides = options.pop("sides", ())

        def body(draw: Draw) -> dict[str, Any]:
            own = {k: v(draw.dims) if callable(v) else v for k, v in options.items()}
            lengths = sides[: draw.dims]
            return {"input": image(draw, batch, *lengths), **fixed, **own}

        rest = {} if fits is None else {"fits": fits}
        return Scenario(name, why, body, (tag,), **rest)

    def per_axis(*values: Any) -> Callable[[int], list[Any]]:
        return lambda dims: list(values[:dims])

    return (
        case("overlapping-windows-add-gradients", "An element of several windows gets the sum of "
             "their gradients; one that is assigned keeps only the last.", "overlap",
             kernel_size=per_axis(3, 2, 2), stride=1),
        case("stride-leaves-elements-out", "The stride does not divide the size: elements between "
             "and behind the windows are in no output, and their gradient is 0.", "indivisible",
             kernel_size=2, stride=per_axis(3, 3, 2)),
        case("padding-before-only", "Padding at the start alone shifts every window; taken as "
             "symmetric, or lost, it changes size or values.", "padding",
             kernel_size=2, stride=2, padding=[[1, 0]]),
        case("padding-after-only", "Padding at the end alone adds a window at the end, and shifts "
             "none.", "padding", kernel_size=2, stride=2, padding=[[0, 1]]),
        case("padding-differs-per-axis", "Each end of each axis has its own padding, which "
             "must not be mixed up.", "padding",
             kernel_size=3, stride=2, padding=per_axis([1, 0], [0, 1], [1, 1])),
        case("ceil-mode-adds-a-partial-window", "Ceil mode adds a last window that reaches beyond "
             "the input; only its real elements exist.", "ceil",
             kernel_size=2, stride=2, padding=0, ceil_mode=True),
        case("ceil-mode-drops-a-window-in-the-padding", "A last window that would start behind the "
             "input is dropped, although the rounded-up formula counts it.", "dropped-window",
             kernel_size=2, stride=2, padding=1, ceil_mode=True, ceil_rule="drop"),
        case("nothing-to-keep-under-ceil-rule-keep", "Keeping a last window in the padding changes "
             "nothing where there is none.", "ceil",
             kernel_size=2, stride=2, padding=[[1, 0]], ceil_mode=True, ceil_rule="keep"),
        case("dilation-skips-elements", "The taps of a window are `dilation` elements apart.",
             "dilation", kernel_size=2, stride=1, dilation=2),
        case("dilation-counts-from-the-padding", "The first tap lies in the padding and the others "
             "follow from there, not from the first real element.", "dilation",
             kernel_size=2, stride=1, dilation=2, padding=1),
        case("same-upper-pads-more-at-the-end", "An odd total of `same` padding puts the larger "
             "half at the end.", "padding", kernel_size=2, stride=1, padding="same_upper"),
        case("same-lower-pads-more-at-the-start", "An odd total of `same_lower` padding puts the "
             "larger half at the start.", "padding",
             kernel_size=2, stride=1, padding="same_lower"),
        case("same-padding-depends-on-the-stride", "With a stride, `same` padding follows from "
             "what the last window needs, and may be 0.", "padding",
             kernel_size=3, stride=2, padding="same"),
        case("valid-padding-floors", "`valid` is no padding, and a remainder is cut off.",
             "padding", kernel_size=2, stride=2, padding="valid", ceil_mode=False,
             ceil_rule="drop"),
        case("axes-have-their-own-window", "Kernel, stride and padding differ per axis; taken in "
             "reverse order they give another result.", "axes",
             kernel_size=per_axis(2, 1, 3), stride=per_axis(1, 2, 1),
             padding=per_axis(1, 0, 1), dilation=per_axis(1, 2, 1), fits=several_axes),
        case("window-of-one-element", "A kernel of 1 with a stride only picks elements.", "size",
             kernel_size=1, stride=2),
        case("window-covers-the-input", "The window is the whole input, and the output one "
             "element.", "size", kernel_size=lambda dims: list(SIDES[dims]), stride=1),
        case("axis-of-length-one", "An axis of length 1 has one window.", "size",
             kernel_size=per_axis(1, 2, 2), stride=1, sides=(1, 4, 3)),
        case("stride-null-is-the-conventions-default", "Without a stride, it is the kernel size in "
             "torch and Keras, and 1 in ONNX and Flax.", "stride", kernel_size=2, stride=None),
        case("padding-above-half-the-kernel", "Padding up to the kernel size less 1 is legal "
             "outside torch.", "padding", kernel_size=3, stride=1, padding=2, fits=not_torch),
        *layout_scenarios(image, kernel_size=2, **fixed),
    )  # fmt: skip


def layout_scenarios(image: Image, **fixed: Any) -> tuple[Scenario, ...]:
    """Batches of several samples, one, and none, in both layouts and without a batch axis."""

    def case(name: str, why: str, batch: int, **options: Any) -> Scenario:
        def body(draw: Draw) -> dict[str, Any]:
            return {"input": image(draw, batch), **fixed, **options}

        return Scenario(name, why, body, ("layout",))

    return (
        case("batch-of-one-channels-first", "With one sample, axes of length 1 are easily confused "
             "or squeezed away.", 1, layout="channels_first"),
        case("batch-of-one-channels-last", "With one sample and channels last, strides are "
             "ambiguous: a batch of one often takes another code path.", 1, layout="channels_last"),
        case("channels-last-interleaves-channels", "With channels last, neighbours in memory are "
             "channels, not positions.", 2, layout="channels_last"),
        case("no-batch-axis", "A single sample without its batch axis is not read as a batch.", 1,
             batched=False),
        case("empty-batch", "No samples give no outputs, with the other axes as usual.", 0),
    )  # fmt: skip
