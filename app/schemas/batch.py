"""Many requests in one body, and their answers."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class BatchCall(BaseModel):
    """Independent requests, each with `layer` and the fields of a request to that layer."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    requests: tuple[Any, ...]
    """Each is a body for `/v1/layers/{layer}`, plus the layer's name as `layer`. With
    `input_shape`, or with `operation: shape`, it is a body for `/v1/layers/{layer}/shape`."""


class BatchResponse(BaseModel):
    """The answer to one request, as it would be on its own."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: int
    """The HTTP status."""
    body: dict[str, Any]
    """The answer, or the problem details of an error."""


class BatchAnswer(BaseModel):
    """The answers, in the order of the requests."""

    responses: tuple[BatchResponse, ...]
