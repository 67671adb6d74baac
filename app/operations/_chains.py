"""Shared by the operations on chains: how a chain's layers are read from its request."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from app.compute import located
from app.errors import InvalidRequest
from app.layers import LayerSpec, is_chainable
from app.operations._validation import nearest, validated
from app.schemas.calls import Call
from app.schemas.chains import INHERITED
from app.schemas.tensors import json_kind

ONLY_AT_THE_TOP = {
    "input": "the first layer takes the chain's `input`, each other layer the output of the one "
    "before",
    "input_shape": "the first layer takes the chain's `input_shape`",
    "grad_output": "the chain has one `grad_output`, for its last layer",
    "dtype": "all layers of a chain share one `dtype`",
    "compute_dtype": "all layers of a chain share one `compute_dtype`",
    "encoding": "the answer has one `encoding`",
}


def layer_fields(
    layers: Mapping[str, LayerSpec], chain: BaseModel, index: int, entry: object
) -> tuple[LayerSpec, dict[str, Any]]:
    """The spec and the fields of one layer, with those that it inherits from the chain.

    Raises:
        InvalidRequest: not an object, no layer that can stand in a chain, or a field that belongs
            at the top.

    """
    path = f"layers/{index}"
    if not isinstance(entry, dict):
        detail = f"{path}: expected an object with the name of a layer; got {json_kind(entry)}"
        raise InvalidRequest.at(path, "layer-type", detail)
    name = entry.get("layer")
    if not isinstance(name, str):
        code = "missing" if name is None else "string-type"
        raise InvalidRequest.at(
            f"{path}/layer", code, f"{path}/layer: expected the name of a layer"
        )
    spec = layers.get(name)
    if spec is None:
        known = [spec.name for spec in layers.values() if is_chainable(spec)]
        detail = f"{path}/layer: no layer has that name; {nearest(name, known)}"
        raise InvalidRequest.at(f"{path}/layer", "unknown-layer", detail)
    if not is_chainable(spec):
        detail = (
            f"{path}/layer: {name} takes more than one input, and a layer of a chain has only the "
            f"output of the one before; send it to /v1/layers/{name}"
        )
        raise InvalidRequest.at(f"{path}/layer", "several-inputs", detail)
    for field, reason in ONLY_AT_THE_TOP.items():
        if field in entry:
            detail = f"{path}/{field}: belongs at the top of the chain: {reason}"
            raise InvalidRequest.at(f"{path}/{field}", "unknown-field", detail)
    own = {key: value for key, value in entry.items() if key != "layer"}
    given = chain.model_fields_set
    inherited = {key: getattr(chain, key) for key in INHERITED if key in given and key not in own}
    return spec, {**own, **inherited}


def validated_layer(model: type[Call], fields: Mapping[str, object], index: int) -> Any:
    """The request of one layer, with pointers into the chain in its errors.

    Raises:
        InvalidRequest: with a pointer to each invalid field.

    """
    try:
        return validated(model, fields)
    except InvalidRequest as error:
        raise located(error, index) from None
