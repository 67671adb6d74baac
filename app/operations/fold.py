"""Folds a batch norm into the convolution before it."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, create_model

from app.compute import Folding, check_pair, fold, fold_estimate, is_last
from app.errors import CostLimit, InvalidRequest, OutputTooLarge
from app.layers import LAYERS, LayerSpec, options_of
from app.operations._spec import Context, Fields, ServiceOperation, Task
from app.operations._validation import validated
from app.schemas.folds import FoldAnswer, FoldCall
from app.schemas.options import Flag
from app.schemas.tensors import Field, GroupField, Tensor, TensorField, TensorPayload, json_kind

CONV, NORM = "conv2d", "batch_norm1d"
"""Layers whose options the parts have; those of other ranks have the same."""
CONV_TENSORS = ("weight", "bias")
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
RANKS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


def _part(title: str, spec: LayerSpec, required: tuple[str, ...], **more: Any) -> type[BaseModel]:
    """The model of one part: the layer's tensors but its input, and its options."""
    fields: dict[str, Any] = {
        port.name: Tensor if port.name in required else (Tensor | None, None)
        for port in spec.inputs[1:]
    }
    return create_model(title, __base__=spec.options, **fields, **more)


CONV_MODEL = _part("FoldedConvolution", LAYERS[CONV], ("weight",))
NORM_MODEL = _part(
    "FoldedBatchNorm", LAYERS[NORM], ("running_mean", "running_var"), training=(Flag, False)
)


class FoldReader:
    """Reads requests to fold."""

    def __init__(self, context: Context) -> None:
        self._layers = context.layers
        self._limits = context.engine.limits
        self.tensors: Mapping[str, Field] = {
            name: GroupField(dict.fromkeys(tensors, TensorField()))
            for name, tensors in (("conv", CONV_TENSORS), ("batch_norm", NORM_TENSORS))
        }

    def read(self, fields: Fields) -> Task:
        """Turn the request into a task that folds once."""
        call: FoldCall = validated(FoldCall, fields)
        conv = _validated_part(CONV_MODEL, "conv", call)
        norm = _validated_part(NORM_MODEL, "batch_norm", call)
        if norm.training:
            detail = (
                "batch_norm/training: must be false; in training, a batch norm depends on the "
                "batch, so no convolution can do the same"
            )
            raise InvalidRequest.at("batch_norm/training", "literal-error", detail)
        conv_spec = self._convolution(conv.weight.shape)
        norm_spec = self._layers[NORM]
        options = options_of(conv_spec, conv), options_of(norm_spec, norm)
        sent = _sent(conv, CONV_TENSORS), _sent(norm, NORM_TENSORS)
        shapes = [{name: payload.shape for name, payload in part.items()} for part in sent]
        channels = check_pair(
            (conv_spec, options[0]),
            (norm_spec, options[1]),
            dict(zip(("conv", "batch_norm"), shapes, strict=True)),
            self._limits.requests.max_extent,
        )
        folding = Folding(*sent, options[0].groups, is_last(options[0]), options[1].eps, call.dtype)
        elements = math.prod(conv.weight.shape)
        estimate = fold_estimate(elements, channels, options[0].groups, call.dtype)
        limits = self._limits.results
        if estimate.bytes > limits.max_output_bytes:
            detail = f"folding needs {estimate.bytes} bytes; the limit is {limits.max_output_bytes}"
            raise OutputTooLarge(detail)
        if estimate.ms > limits.max_cost_ms:
            detail = (
                f"folding would take about {estimate.ms:.0f} ms; the limit is {limits.max_cost_ms}"
            )
            raise CostLimit(detail)
        return Task(estimate, partial(fold, folding), dtype=call.dtype, encoding=call.encoding)

    def _convolution(self, weight: tuple[int, ...]) -> LayerSpec:
        """The layer whose weight has this rank."""
        if len(weight) not in RANKS:
            detail = (
                "conv/weight: expected 3 to 5 axes, those of the kernel and two for channels; got "
                f"{len(weight)}, shape {list(weight)}"
            )
            raise InvalidRequest.at("conv/weight", "wrong-rank", detail)
        return self._layers[RANKS[len(weight)]]


def _validated_part(model: type[BaseModel], name: str, call: FoldCall) -> Any:
    """The fields of a part, with the request's convention where it has none of its own."""
    fields = getattr(call, name)
    if not isinstance(fields, dict):
        detail = f"{name}: expected an object; got {json_kind(fields)}"
        raise InvalidRequest.at(name, "dict-type", detail)
    inherited = {"convention": call.convention} if "convention" in call.model_fields_set else {}
    try:
        return validated(model, {**inherited, **fields})
    except InvalidRequest as error:
        raise error.within(name) from None


def _sent(part: Any, names: tuple[str, ...]) -> dict[str, TensorPayload]:
    found = {name: getattr(part, name) for name in names}
    return {name: payload for name, payload in found.items() if payload is not None}


def _request() -> type[FoldCall]:
    """The request's model for the document, in which each part has its own fields."""
    parts: dict[str, Any] = {
        name: (model, FoldCall.model_fields[name])
        for name, model in (("conv", CONV_MODEL), ("batch_norm", NORM_MODEL))
    }
    return create_model("FoldRequest", __base__=FoldCall, **parts)


REQUEST = _request()
OPERATION = ServiceOperation(
    name="fold",
    summary="Fold a batch norm into the convolution before it",
    request=REQUEST,
    answer=FoldAnswer,
    example={
        "conv": {"weight": [[[[1, -1], [2, 0]]], [[[0, 1], [1, 3]]]], "bias": [0.5, -1]},
        "batch_norm": {
            "weight": [2, 0.5],
            "bias": [0, 1],
            "running_mean": [0.5, -1],
            "running_var": [3.99999, 0.24999],
        },
    },
    reader=FoldReader,
    binary=True,
)
