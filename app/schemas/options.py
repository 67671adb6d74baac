"""Types that layer options are built from."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

Convention = Literal["torch", "keras", "onnx", "flax"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
Layout = Literal["channels_first", "channels_last"]
Flag = Annotated[bool, Field(strict=True)]
MAX_AXES = 3
MAX_RANK = 32
"""The most axes that `max_rank` can allow."""
Extent = Annotated[int, Field(strict=True, ge=1)]
Pad = Annotated[int, Field(strict=True, ge=0)]
PaddingMode = Literal["valid", "same", "same_upper", "same_lower"]


def _no_underflow(eps: float) -> float:
    """An eps below float32's normal range would silently become 0."""
    if 0 < eps < SMALLEST_EPS:
        raise ValueError(f"expected 0, or at least {SMALLEST_EPS}")
    return eps


SMALLEST_EPS = 1e-30
Epsilon = Annotated[
    float, Field(strict=True, ge=0, allow_inf_nan=False), AfterValidator(_no_underflow)
]


def _form(value: object) -> str:
    """Which of the forms of a Size or Padding a value wants to be, so that errors fit it."""
    if isinstance(value, str):
        return "mode"
    if isinstance(value, list | tuple):
        return "pairs" if value and isinstance(value[0], list | tuple) else "axes"
    return "one"


def _pads_form(value: object) -> str:
    return "one" if isinstance(value, str) else _form(value)


def _size_form(value: object) -> str:
    return "axes" if _form(value) in ("axes", "pairs") else "one"


Size = Annotated[
    Annotated[Extent, Tag("one")]
    | Annotated[
        tuple[Extent, ...],
        Field(min_length=1, max_length=MAX_AXES),
        Tag("axes"),
    ],
    Discriminator(_size_form),
]
Pads = Annotated[
    Annotated[Pad, Tag("one")]
    | Annotated[tuple[Pad, ...], Field(min_length=1, max_length=MAX_AXES), Tag("axes")]
    | Annotated[
        tuple[tuple[Pad, Pad], ...], Field(min_length=1, max_length=MAX_AXES), Tag("pairs")
    ],
    Discriminator(_pads_form),
]
Trailing = Annotated[
    Annotated[Pad, Tag("one")]
    | Annotated[tuple[Pad, ...], Field(min_length=1, max_length=MAX_RANK), Tag("axes")],
    Discriminator(_size_form),
]
OutputSize = Annotated[
    Annotated[Pad | None, Tag("one")]
    | Annotated[
        tuple[Pad | None, ...],
        Field(min_length=1, max_length=MAX_AXES),
        Tag("axes"),
    ],
    Discriminator(_size_form),
]
Padding = Annotated[
    Annotated[Pad, Tag("one")]
    | Annotated[tuple[Pad, ...], Field(min_length=1, max_length=MAX_AXES), Tag("axes")]
    | Annotated[
        tuple[tuple[Pad, Pad], ...],
        Field(min_length=1, max_length=MAX_AXES),
        Tag("pairs"),
    ]
    | Annotated[PaddingMode, Tag("mode")],
    Discriminator(_form),
]


class LayerOptions(BaseModel):
    """Base class of all layers' options: unknown fields and coercions are refused.

    The defaults in the classes are torch's; `LayerSpec.presets` has those of the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    convention: Convention = "torch"
    """Which framework's defaults to use where they differ; an option in the request wins."""
    layout: Layout = "channels_first"
    """Position of the channel axis in input, output, indices and gradients; the default is
    channels_last in Keras and Flax."""
