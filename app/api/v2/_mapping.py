"""Mapping between the protocol's names and parameters and a layer's fields and outputs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from app.codecs.named import add_tensors
from app.codecs.open_inference import NAMES, Inference, Output
from app.errors import InvalidRequest
from app.layers import LayerSpec, Port
from app.operations import nearest
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Field, TensorPayload

RESERVED = frozenset(
    ("binary_data_output", "timeout", "priority", "headers", "sequence_id", "sequence_start",
     "sequence_end")
)  # fmt: skip
PREFIXES = {"gradients": "grad_", "running_stats": "running_", "batch_stats": "batch_"}
TRACKED = "num_batches_tracked"
INTEGERS = ("indices", TRACKED)
"""Outputs that are INT64 whatever the dtype of the request."""
MAX_OPTION_CHARACTERS = 1024
"""Limit on the text of one option: a list of 32 lengths takes a third of it."""
COMMON = ComputeCall.model_fields
INT64 = range(-(2**63), 2**63)


def fields_of(
    spec: LayerSpec, tensors: Mapping[str, Field], inference: Inference, max_list: int
) -> dict[str, object]:
    """Convert a request to the fields that `/v1` uses.

    Raises:
        InvalidRequest: the layer has no such input, a tensor has the wrong dtype, or a parameter's
            text is too long.

    """
    fields: dict[str, object] = {
        name: _option(name, value) if name in spec.options.model_fields or name in COMMON else value
        for name, value in inference.parameters.items()
        if name not in RESERVED and not name.startswith("triton_")
    }
    payloads = dict(inference.inputs)
    if TRACKED in payloads and TRACKED in spec.options.model_fields:
        fields[TRACKED] = _integer(payloads.pop(TRACKED))
    for name in payloads:
        if name.partition(".")[0] not in tensors:
            detail = f"{name[:64]}: {spec.name} has no such input; {nearest(name, tensors)}"
            raise InvalidRequest.at(name[:64], "unknown-field", detail)
    add_tensors(fields, payloads, tensors, max_list)
    asked = {output.name for output in inference.outputs or ()}
    if "indices" in asked and "return_indices" in spec.options.model_fields:
        fields.setdefault("return_indices", True)
    if any(name.startswith("grad_") for name in asked):
        fields.setdefault(spec.gradient, "ones")
    elif spec.gradient in fields:
        del fields[spec.gradient]
    return fields


def _option(name: str, value: object) -> object:
    """Parse lists sent as text, "2,2" or "[2, 2]", because the protocol's parameters are flat."""
    if not isinstance(value, str):
        return value
    if len(value) > MAX_OPTION_CHARACTERS:
        detail = f"{name}: expected at most {MAX_OPTION_CHARACTERS} characters; got {len(value)}"
        raise InvalidRequest.at(name, "too-long", detail)
    for text in (value, f"[{value}]"):
        try:
            return json.loads(text, parse_int=_number)
        except (ValueError, RecursionError):
            continue
    return value


def _number(digits: str) -> int | float:
    """Parse a number; beyond 64 bits it becomes a float, which is not a valid integer option."""
    number = int(digits)
    return number if number in INT64 else float(digits)


def _integer(payload: TensorPayload) -> int:
    if payload.dtype != "int64" or payload.data.nbytes != 8:
        detail = f"{TRACKED}: expected one INT64; got {payload.dtype}, shape {list(payload.shape)}"
        raise InvalidRequest.at(TRACKED, "shape-mismatch", detail)
    return int(np.frombuffer(payload.data, "<i8")[0])


def check_outputs(
    spec: LayerSpec, outputs: Iterable[str], dtype: str, inference: Inference
) -> None:
    """Reject outputs that are not available for this request, before anything is computed.

    As in Triton, BF16 outputs are binary only: its clients cannot read the strings that would stand
    for NaN and infinity in JSON.
    """
    known = [public_name(path) for path in outputs]
    for output in inference.outputs or ():
        if output.name not in known:
            hint = nearest(output.name, known)
            detail = f"{output.name[:64]}: this request to {spec.name} has no such output; {hint}"
            raise InvalidRequest.at(output.name[:64], "unknown-output", detail)
    for output in inference.outputs or [Output(name, inference.binary_default) for name in known]:
        if not output.binary and dtype == "bfloat16" and output.name not in INTEGERS:
            detail = f'{output.name}: BF16 is only available as binary; set "binary_data": true'
            raise InvalidRequest.at(output.name, "binary-only", detail)


def outputs_of(answer: Mapping[str, Any], inference: Inference) -> dict[str, TensorPayload]:
    """An answer's tensors by public name: those requested, in that order, or all of them."""
    found = {
        public_name(path): payload
        for path, payload in answer.items()
        if isinstance(payload, TensorPayload)
    }
    if inference.outputs is None:
        return found
    return {output.name: found[output.name] for output in inference.outputs}


def public_name(path: str) -> str:
    """The public name of an output, such as `grad_input` for `gradients.input`."""
    head, _, rest = path.partition(".")
    if rest == TRACKED:
        return TRACKED
    if head == "statistics":
        return f"statistics_{rest}"
    return PREFIXES[head] + rest if head in PREFIXES else path


def inputs_card(spec: LayerSpec) -> list[dict[str, Any]]:
    """The model's inputs; -1 stands for an axis of any length, and for any axes."""
    ports = [_port_card(port, _numbered(port)) for port in spec.inputs]
    if TRACKED in spec.options.model_fields:
        ports.append({"name": TRACKED, "datatype": "INT64", "shape": []})
    first = spec.outputs[0]
    gradient = spec.gradient + (".0" if spec.many else "")
    return [*ports, _port_card(first, gradient)]


def outputs_card(spec: LayerSpec) -> list[dict[str, Any]]:
    """The model's outputs, gradients included."""
    cards = [_port_card(port, public_name(_numbered(port))) for port in spec.outputs]
    gradients = (port for port in spec.inputs if port.differentiable)
    return [*cards, *(_port_card(port, f"grad_{_numbered(port)}") for port in gradients)]


def _numbered(port: Port) -> str:
    if port.many:
        return f"{port.name}.0"
    return port.name.replace("replicas.", "replicas.0.")


def _port_card(port: Port, name: str) -> dict[str, Any]:
    whole = port.dtype or ("int64" if name in INTEGERS else "float32")
    shape = [-1] * port.ranks[0] if len(port.ranks) == 1 else [-1]
    return {"name": name, "datatype": NAMES[whole], "shape": shape}
