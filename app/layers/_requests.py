"""Request models for each layer, built from its spec."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from app.layers._spec import LayerSpec
from app.schemas.calls import Call, ComputeCall, Lengths
from app.schemas.options import Convention
from app.schemas.tensors import Tensor, TensorField, TensorOrOnes, Tensors, TensorsOrOnes

GRADIENT = Field(
    None,
    description="Gradient of the loss with respect to the output: a tensor of its shape (for a "
    'list of outputs, a list of tensors), or "ones". Without it, no gradients are computed.',
)
SHAPE = Field(description="Shape of the input, including the batch axis unless `batched` is false.")


def _title(spec: LayerSpec, suffix: str) -> str:
    return "".join(word.capitalize() for word in spec.name.split("_")) + suffix


@functools.cache
def compute_model(spec: LayerSpec) -> type[ComputeCall]:
    """Build the compute request model: the layer's tensors, its options, and the common fields."""
    fields: dict[str, Any] = {}
    for port in spec.inputs:
        kind: Any = Tensors if port.many else Tensor
        fields[port.name] = kind if port.required else (kind | None, None)
    fields[spec.gradient] = ((TensorsOrOnes if spec.many else TensorOrOnes) | None, GRADIENT)
    fields["dtype"] = (Literal[spec.dtypes], "float32")
    bases: Any = (spec.options, ComputeCall)
    return create_model(_title(spec, "Request"), __base__=bases, **fields)  # type: ignore[no-any-return]


@functools.cache
def shape_model(spec: LayerSpec) -> type[Call]:
    """Build the shape request model: the input's shape and the layer's options."""
    many: Any = Annotated[tuple[Lengths, ...], Field(min_length=1)]
    fields: dict[str, Any] = (
        {"input_shapes": (many, SHAPE)} if spec.many else {"input_shape": (Lengths, SHAPE)}
    )
    own = () if spec.shape_fields is None else (spec.shape_fields,)
    bases: Any = (*own, spec.options, Call)
    return create_model(_title(spec, "ShapeRequest"), __base__=bases, **fields)  # type: ignore[no-any-return]


@functools.cache
def tensor_fields(spec: LayerSpec) -> Mapping[str, TensorField]:
    """The fields of a compute request that a codec decodes as tensors, the input first."""
    return {
        **{port.name: TensorField(port.dtype, port.many) for port in spec.inputs},
        spec.gradient: TensorField(many=spec.many),
    }


def options_of(spec: LayerSpec, call: Any, convention: Convention | None = None) -> Any:
    """The layer's options from a validated request, with defaults from its convention.

    A null that is torch's default stands for the convention's default. If `convention` differs
    from the request's, the options are what the request would mean in that convention, with the
    layout kept as it is.
    """
    preset = spec.presets[convention or call.convention]
    given = call.model_fields_set
    options = {}
    for name, field in spec.options.model_fields.items():
        value = getattr(call, name)
        if name in preset and (name not in given or value is field.default is None):
            value = preset[name]
            if callable(value):
                value = value(getattr(call, "dtype", "float32"))
        options[name] = value
    if convention:
        here = spec.presets[call.convention].get("layout", "channels_first")
        options |= {
            "convention": convention,
            "layout": call.layout if "layout" in given else here,
        }
    return spec.options.model_construct(**options)
