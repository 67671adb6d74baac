"""Each layer's own request models, made from its spec."""

import functools
from typing import Any, Literal

from pydantic import BaseModel, create_model

from app.layers._spec import LayerSpec
from app.schemas.calls import ComputeCall, ShapeCall
from app.schemas.tensors import Tensor


def _title(spec: LayerSpec, suffix: str) -> str:
    return "".join(word.capitalize() for word in spec.name.split("_")) + suffix


@functools.cache
def compute_model(spec: LayerSpec) -> type[ComputeCall]:
    """The model of a compute request: the layer's tensors, its options, the common fields."""
    tensors: dict[str, Any] = {
        port.name: (Tensor, ...) if port.required else (Tensor | None, None) for port in spec.inputs
    }
    dtypes: Any = Literal[spec.dtypes]
    bases: Any = (spec.options, ComputeCall)
    return create_model(  # type: ignore[no-any-return]
        _title(spec, "Request"),
        __base__=bases,
        dtype=(dtypes, "float32"),
        **tensors,
    )


@functools.cache
def shape_model(spec: LayerSpec) -> type[ShapeCall]:
    """The model of a shape request: the input's shape, the layer's options."""
    bases: Any = (spec.options, ShapeCall)
    return create_model(_title(spec, "ShapeRequest"), __base__=bases)  # type: ignore[no-any-return]


def options_of(spec: LayerSpec, call: BaseModel) -> Any:
    """The layer's options out of a validated request."""
    fields = spec.options.model_fields
    return spec.options.model_construct(**{name: getattr(call, name) for name in fields})
