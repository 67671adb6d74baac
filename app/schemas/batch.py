"""Many requests in one body, and their answers."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class BatchCall(BaseModel):
    """Independent requests, each with `layer` and the fields of that layer's own request."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    requests: tuple[Any, ...]
    """Each is what would be posted to the layer's own path, and the layer's name as `layer`. One
    with `input_shape`, or with `operation: shape`, asks for the shape alone."""


class BatchResponse(BaseModel):
    """What the request would be answered alone."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: int
    """The HTTP status."""
    body: dict[str, Any]
    """The answer, or the problem."""


class BatchAnswer(BaseModel):
    """The answers, in the order of the requests."""

    responses: tuple[BatchResponse, ...]
