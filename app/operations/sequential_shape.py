"""Shapes, parameters, costs, and receptive fields of a chain, without data."""

from functools import partial
from typing import Any

from pydantic import create_model

from app.compute import Estimate, chain_shapes
from app.errors import InvalidRequest
from app.layers import (
    LAYERS,
    LayerSpec,
    is_chainable,
    list_of,
    shape_chain_model,
    shape_model,
)
from app.operations._chains import layer_fields, validated_layer
from app.operations._spec import Context, Fields, ServiceOperation, Task
from app.operations._validation import validated
from app.operations.shape import MAX_BODY_BYTES
from app.schemas.calls import Call
from app.schemas.chains import ChainShapeAnswer, ShapeChainCall
from app.schemas.tensors import Field, GroupField

LAYER_MS = 0.2
"""Upper bound on the time to plan one layer."""


class SequentialShapeReader:
    """Reads chains without data."""

    def __init__(self, context: Context) -> None:
        self._layers = context.layers
        self._limits = context.engine.limits.requests
        self.tensors: dict[str, Field] = {"layers": GroupField({}, self._limits.max_layers)}

    def read(self, fields: Fields) -> Task:
        """Turn the chain into a task that allocates no tensor, whatever the sizes."""
        chain: ShapeChainCall = validated(ShapeChainCall, fields)
        layers = [self._layer(chain, index, entry) for index, entry in enumerate(chain.layers)]
        work = partial(chain_shapes, layers, chain.input_shape, self._limits.max_extent)
        return Task(Estimate(LAYER_MS * len(layers)), work)

    def _layer(
        self, chain: ShapeChainCall, index: int, entry: object
    ) -> tuple[LayerSpec, Call, bool]:
        """One layer, its request, and whether it has a bias."""
        spec, fields = layer_fields(self._layers, chain, index, entry)
        model = shape_model(spec)
        has_bias = (
            fields.pop("bias", True) if "bias" in shape_chain_model(spec).model_fields else True
        )
        if not isinstance(has_bias, bool):
            path = f"layers/{index}/bias"
            detail = f"{path}: expected true or false; a chain without data has no tensors"
            raise InvalidRequest.at(path, "bool-type", detail)
        if "training" in model.model_fields:
            fields.setdefault("training", False)
        given = {**fields, "input_shape": chain.input_shape}
        return spec, validated_layer(model, given, index), has_bias


def _request() -> type[ShapeChainCall]:
    """The request's model for the document, in which each layer has its own fields."""
    layers = list_of(shape_chain_model(spec) for spec in LAYERS.values() if is_chainable(spec))
    described = ShapeChainCall.model_fields["layers"]
    kind: Any = (layers, described)
    return create_model("SequentialShapeRequest", __base__=ShapeChainCall, layers=kind)


REQUEST = _request()
OPERATION = ServiceOperation(
    name="sequential/shape",
    summary="Shapes, parameters, cost and receptive field of a chain, without data",
    request=REQUEST,
    answer=ChainShapeAnswer,
    example={
        "input_shape": [1, 3, 224, 224],
        "layers": [
            {"layer": "conv2d", "out_channels": 64, "kernel_size": 7, "stride": 2, "padding": 3},
            {"layer": "batch_norm2d"},
            {"layer": "relu"},
            {"layer": "max_pool2d", "kernel_size": 3, "stride": 2, "padding": 1},
        ],
    },
    reader=SequentialShapeReader,
    max_body_bytes=MAX_BODY_BYTES,
)
