"""The output shape of a layer, from the input's shape and options alone."""

from functools import partial
from typing import Any

from app.compute import Estimate
from app.layers import LayerSpec, shape_model
from app.operations._spec import Context, Fields, LayerOperation, Task
from app.operations._validation import validated
from app.schemas.answers import ShapeAnswer
from app.schemas.tensors import Field

MAX_BODY_BYTES = 64 * 1024
"""Largest body of a request without data."""


class ShapeReader:
    """Reads the shape requests of one layer."""

    def __init__(self, context: Context, spec: LayerSpec) -> None:
        self.tensors: dict[str, Field] = {}
        self._engine = context.engine
        self._spec = spec
        self._model = shape_model(spec)

    def read(self, fields: Fields) -> Task:
        """Turn the request into a task that allocates no tensor, whatever the sizes."""
        call = validated(self._model, fields)
        return Task(Estimate(), partial(self._engine.shape, self._spec, call))


def example(spec: LayerSpec) -> dict[str, Any]:
    """The layer's example as a shape request."""
    ports = {port.name for port in spec.inputs}
    fields = {name: value for name, value in spec.example.items() if name not in ports}
    if spec.shape_fields is not None:
        own = spec.shape_fields.model_fields.items()
        fields |= {name: field.examples[0] for name, field in own if field.examples}
    sent: Any = spec.example[spec.inputs[0].name]
    if spec.many:
        return {"input_shapes": list(map(_nested_shape, sent)), **fields}
    return {"input_shape": _nested_shape(sent), **fields}


def _nested_shape(nested: Any) -> list[int]:
    return [len(nested), *_nested_shape(nested[0])] if isinstance(nested, list) else []


OPERATION = LayerOperation(
    name="shape",
    summary=lambda spec: f"Output shape of {spec.name}, without data",
    request=shape_model,
    answer=ShapeAnswer,
    example=example,
    reader=ShapeReader,
    max_body_bytes=MAX_BODY_BYTES,
)
