"""A client's own results, held against the reference, and what explains a difference."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.tensors import Tensor, Tensors

Bound = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class Results(BaseModel):
    """Results of a layer, named as in its answer; any subset of them."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    output: Tensor | None = None
    outputs: Tensors | None = None
    """For layers with a list of inputs."""
    indices: Tensor | None = None
    gradients: dict[str, Tensor | Tensors] | None = None
    """By the name of the input; they need `grad_output` in the request."""
    running_stats: dict[str, Any] | None = None
    batch_stats: dict[str, Any] | None = None
    statistics: dict[str, Any] | None = None
    replicas: tuple[dict[str, Any], ...] | None = None
    output_shape: tuple[int, ...] | None = None
    output_shapes: tuple[tuple[int, ...], ...] | None = None


class CheckCall(BaseModel):
    """What a client asked itself, and got."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    request: dict[str, Any]
    """A body for `/v1/layers/{layer}`: the tensors and options that the client used."""
    expected: dict[str, Any]
    """The client's own results: any of those that the layer answers, under the same names."""
    rtol: Bound | None = None
    """Relative tolerance; the default depends on the dtype."""
    atol: Bound | None = None
    """Absolute tolerance; the default is the relative one times the size of the terms summed."""
    ulp: Annotated[int, Field(strict=True, ge=0, lt=2**53)] = 0
    """Units in the last place by which an element may be off, whatever the other bounds."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ElementCard(_Part):
    """One element that does not match."""

    index: tuple[int, ...]
    expected: int | float | str
    """The client's value."""
    actual: int | float | str
    """The reference's value."""
    window: dict[str, Any] | None = None
    """The pooling window behind it, as in an explanation."""


class ToleranceCard(_Part):
    """An element matches within `atol + rtol * |reference|`, or within `ulp` units in the last
    place. `atol` is that of the largest sum, of `terms` terms; by default, each element has its
    own.
    """

    atol: float
    rtol: float
    ulp: int
    terms: int


class TensorCard(_Part):
    """One result held against the reference."""

    name: str
    match: bool
    max_abs_error: float | str | None = None
    max_rel_error: float | str | None = None
    max_ulp: int | None = None
    """The largest difference in units in the last place of the dtype, among finite numbers."""
    mismatched: int
    """Number of elements that do not match."""
    total: int
    tolerance: ToleranceCard | None = None
    first_mismatch: ElementCard | None = None
    worst: tuple[ElementCard, ...] | None = None
    """At most five elements, those that differ most first."""
    note: str | None = None


class DiagnosisCard(_Part):
    """What turns every result into a match."""

    fault: str | None = None
    """A known fault that the client's numbers show."""
    options: dict[str, Any]
    """The changes to the request with which the reference gives the client's numbers."""
    explains: tuple[str, ...]
    """The results that did not match."""
    message: str
    more: str
    """The place in the documentation."""


class SearchedCard(_Part):
    hypotheses: int
    complete: bool
    """False: the request's cost limit ended the search."""


class CheckAnswer(_Part):
    """Whether a client's results match, and if not, what explains all of them."""

    match: bool
    tensors: tuple[TensorCard, ...]
    diagnosis: tuple[DiagnosisCard, ...]
    """Fewest changes first; empty if everything matches, or if nothing explains the difference."""
    searched: SearchedCard
