"""Holds a client's own results against the reference, and names what explains a difference."""

import functools
from typing import Any

from pydantic import create_model

from app.layers import LayerSpec, compute_model
from app.operations._spec import LayerOperation
from app.operations.check._options import OPTIONS, spelled
from app.operations.check._reader import CheckReader
from app.schemas.check import CheckAnswer, CheckCall, Results

__all__ = ["OPERATION", "OPTIONS", "check_model", "spelled"]


@functools.cache
def check_model(spec: LayerSpec) -> type[CheckCall]:
    """The request model, for the documents: the layer's own request, and results of it."""
    model = compute_model(spec)
    name = model.__name__.removesuffix("Request") + "CheckRequest"
    fields: dict[str, Any] = {
        "request": (model, CheckCall.model_fields["request"]),
        "expected": (Results, CheckCall.model_fields["expected"]),
    }
    return create_model(name, __base__=CheckCall, **fields)


def example(spec: LayerSpec) -> dict[str, Any]:
    """The layer's example, with a shape that it does not have."""
    name = "output_shapes" if spec.many else "output_shape"
    return {"request": dict(spec.example), "expected": {name: [[2, 2]] if spec.many else [2, 2]}}


OPERATION = LayerOperation(
    name="check",
    summary=lambda spec: f"Why your own results of {spec.name} differ",
    request=check_model,
    answer=CheckAnswer,
    example=example,
    reader=CheckReader,
    binary=True,
)
