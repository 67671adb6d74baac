"""Computes a chain of layers in one request, with the gradients of everything."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import create_model

from app.compute import plan_chain, run_chain
from app.errors import InvalidRequest
from app.layers import (
    LAYERS,
    LayerSpec,
    chain_model,
    chain_tensors,
    compute_model,
    is_chainable,
    list_of,
)
from app.operations._chains import layer_fields, validated_layer
from app.operations._spec import Context, Fields, ServiceOperation, Task
from app.operations._validation import validated
from app.schemas.calls import ComputeCall
from app.schemas.chains import ChainAnswer, ChainCall
from app.schemas.tensors import Field, GroupField, TensorField

SHARED = ("dtype", "compute_dtype")
"""Fields of the chain that are set for each layer."""


class SequentialReader:
    """Reads chains with data."""

    def __init__(self, context: Context) -> None:
        self._engine = context.engine
        self._layers = context.layers
        most = context.engine.limits.requests.max_layers
        self.tensors: Mapping[str, Field] = {
            "input": TensorField(),
            "grad_output": TensorField(),
            "layers": GroupField(chain_tensors(context.layers.values()), most),
        }

    def read(self, fields: Fields) -> Task:
        """Turn the chain into one task, planned as a whole."""
        chain: ChainCall = validated(ChainCall, fields)
        count = len(chain.layers)
        layers = [self._layer(chain, index, entry) for index, entry in enumerate(chain.layers)]
        plan = plan_chain(self._engine, layers, _kept(chain, count), explains=chain.explain)
        return Task(
            plan.estimate,
            partial(run_chain, self._engine, plan),
            dtype=chain.dtype,
            encoding=chain.encoding,
            is_brief=not any(call.explain for _, call in layers),
        )

    def _layer(self, chain: ChainCall, index: int, entry: object) -> tuple[LayerSpec, ComputeCall]:
        """One layer and its request; only the first one's input is the real one."""
        spec, fields = layer_fields(self._layers, chain, index, entry)
        shared = {name: getattr(chain, name) for name in SHARED if name in chain.model_fields_set}
        given = {**fields, **shared, "input": chain.input}
        if chain.grad_output is not None:
            is_last = index == len(chain.layers) - 1
            given[spec.gradient] = chain.grad_output if is_last else "ones"
        return spec, validated_layer(compute_model(spec), given, index)


def _kept(chain: ChainCall, count: int) -> frozenset[int]:
    """The indices of the layers whose output the answer has.

    Raises:
        InvalidRequest: an index that no layer has.

    """
    wanted = chain.return_intermediate
    if isinstance(wanted, bool):
        return frozenset(range(count)) if wanted else frozenset()
    for place, index in enumerate(wanted):
        if index >= count:
            path = f"return_intermediate/{place}"
            detail = f"{path}: expected the index of a layer, 0 to {count - 1}; got {index}"
            raise InvalidRequest.at(path, "out-of-range", detail)
    return frozenset(wanted)


def _request() -> type[ChainCall]:
    """The request's model for the document, in which each layer has its own fields."""
    layers = list_of(chain_model(spec) for spec in LAYERS.values() if is_chainable(spec))
    described = ChainCall.model_fields["layers"]
    kind: Any = (layers, described)
    return create_model("SequentialRequest", __base__=ChainCall, layers=kind)


REQUEST = _request()
EXAMPLE: dict[str, Any] = {
    "input": [[[[1, 3, 2, 4], [5, 6, 8, 7], [2, 0, 1, 3], [4, 4, 6, 5]]]],
    "layers": [
        {"layer": "conv2d", "weight": [[[[1, -1], [2, 0]]]], "padding": "same_upper"},
        {"layer": "batch_norm2d", "training": True},
        {"layer": "relu"},
        {"layer": "max_pool2d", "kernel_size": 2},
    ],
    "grad_output": "ones",
}
OPERATION = ServiceOperation(
    name="sequential",
    summary="A chain of layers, with the gradients of everything",
    request=REQUEST,
    answer=ChainAnswer,
    example=EXAMPLE,
    reader=SequentialReader,
    binary=True,
)
