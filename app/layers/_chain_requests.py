"""How layers are written in a chain: which can stand there, with which fields."""

import functools
import operator
from collections.abc import Iterable, Mapping
from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, create_model

from app.layers._requests import tensor_fields
from app.layers._spec import LayerSpec
from app.schemas.options import Flag
from app.schemas.tensors import Field as TensorOrGroup
from app.schemas.tensors import Tensor


class ChainedFields(BaseModel):
    """What every layer of a chain can say for itself."""

    batched: Flag = True
    """Whether axis 0 is the batch axis; the chain's, if omitted."""


class ExplainedFields(ChainedFields):
    """What every layer of a chain with data can say for itself."""

    explain: Flag = False
    """Whether to add `axes` and `advice` of this layer; the chain's, if omitted."""


def is_chainable(spec: LayerSpec) -> bool:
    """Whether a layer takes the output of another, and nothing else that is laid out like it."""
    return not spec.many and not any(port.mapped for port in spec.inputs[1:])


def chain_tensors(specs: Iterable[LayerSpec]) -> Mapping[str, TensorOrGroup]:
    """The tensors that some layer of a chain can have, by name."""
    found: dict[str, TensorOrGroup] = {}
    for spec in filter(is_chainable, specs):
        found |= tensor_fields(spec)
        for name in (spec.inputs[0].name, spec.gradient):
            del found[name]
    return found


@functools.cache
def chain_model(spec: LayerSpec) -> type[BaseModel]:
    """Describe a layer in a chain: a compute request without what the chain itself has."""
    fields: dict[str, Any] = {
        port.name: Tensor if port.required else (Tensor | None, None) for port in spec.inputs[1:]
    }
    bases: Any = (spec.options, ExplainedFields)
    return _created(spec, "InChain", bases, fields)


@functools.cache
def shape_chain_model(spec: LayerSpec) -> type[BaseModel]:
    """Describe a layer in a chain without data: a shape request without the input's shape.

    `training`, on which no shape depends, may be omitted; `bias` says whether there is one.
    """
    fields: dict[str, Any] = {}
    if "training" in spec.options.model_fields:
        description = spec.options.model_fields["training"].description
        fields["training"] = (Flag, Field(False, description=description))
    if any(port.name == "bias" for port in spec.inputs):
        fields["bias"] = (Flag, Field(True, description="Whether the layer has a bias."))
    own = () if spec.shape_fields is None else (spec.shape_fields,)
    return _created(spec, "InShapeChain", (*own, spec.options, ChainedFields), fields)


def list_of(models: Iterable[Any]) -> Any:
    """The type of a list whose entries are one of these models each, told apart by `layer`."""
    union: Any = functools.reduce(operator.or_, models)
    entry: Any = Annotated[union, Discriminator("layer")]
    return GenericAlias(tuple, (entry, ...))


def _created(
    spec: LayerSpec, suffix: str, bases: Any, fields: Mapping[str, Any]
) -> type[BaseModel]:
    title = "".join(word.capitalize() for word in spec.name.split("_")) + suffix
    name: Any = (Literal[spec.name], Field(description="The layer's name."))
    return create_model(title, __base__=bases, layer=name, **fields)
