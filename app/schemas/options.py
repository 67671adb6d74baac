"""Types that layer options are built from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_AXES = 3
Extent = Annotated[int, Field(strict=True, ge=1)]
Pad = Annotated[int, Field(strict=True, ge=0)]
PaddingMode = Literal["valid", "same", "same_upper", "same_lower"]


def _form(value: object) -> str:
    """Which of the forms of a Size or Padding a value wants to be, so that errors fit it."""
    if isinstance(value, str):
        return "mode"
    if isinstance(value, list | tuple):
        return "pairs" if value and isinstance(value[0], list | tuple) else "axes"
    return "one"


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
    """Base of every layer's options: unknown fields and coercions are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
