"""Requests for golden vectors, and their answers."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from app.schemas.answers import LayerAnswer
from app.schemas.options import Convention


class VectorsCall(BaseModel):
    """The fields of a request for a set of cases."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**53)] = 0
    """The same seed gives the same set, on any CPU."""
    count: Annotated[int, Field(strict=True, ge=1, le=256)] = 16
    """Number of cases; from 64 on, they cover every option and every known trap."""
    dtype: str = "float32"
    """The dtype of the tensors; results are computed in float64 and rounded once."""
    convention: Convention | None = None
    """The convention of every case; without it, torch's, and one case for each of the others."""


class CaseTolerance(BaseModel):
    """How far a correct implementation may be: `|d| <= atol + rtol * |result|`, or `ulp` units in
    the last place.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    atol: float
    rtol: float
    ulp: int
    terms: int
    """Number of terms in the longest sum."""


class VectorsCase(BaseModel):
    """One request, and its answer."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """What it tests."""
    why: str
    """What goes wrong in implementations that fail it."""
    tags: tuple[str, ...]
    request: dict[str, Any]
    """A body for `/v1/layers/{layer}`, with every option."""
    response: LayerAnswer
    """The answer to it."""
    tolerance: dict[str, CaseTolerance]
    """By the dotted name of the result, such as `gradients.input`; 0 where it is exact."""


class VectorsAnswer(BaseModel):
    """A set of golden vectors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    layer: str
    seed: int
    format: int
    """Version of this structure."""
    cases: tuple[VectorsCase, ...]


@cache
def vectors_model(layer: str, dtypes: tuple[str, ...]) -> type[VectorsCall]:
    """The request model of a layer with these dtypes."""
    title = "".join(word.capitalize() for word in layer.split("_")) + "VectorsRequest"
    kind: Any = Literal[dtypes]
    return create_model(title, __base__=VectorsCall, dtype=(kind, "float32"))
