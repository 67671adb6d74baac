"""Random chains of all layers that can stand in one, and the same layers called one by one."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, LayerSpec, compute_model, is_chainable
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import DTYPES, FLOATS, TensorPayload

CHAINABLE = tuple(spec for spec in LAYERS.values() if is_chainable(spec))
COMMON = {"dtype", "compute_dtype", "encoding", "layout", "convention", "batched"}
SPATIAL = {1: (24,), 2: (9, 8), 3: (6, 5, 7)}
LONGEST = 6
TRIES = 200


def payload(numbers: np.ndarray[Any, Any], dtype: str) -> TensorPayload:
    """The numbers rounded to a dtype."""
    tensor = torch.from_numpy(numbers).to(getattr(torch, dtype))
    if dtype == "bfloat16":
        tensor = tensor.view(torch.uint16)
    elements: Any = tensor.numpy().reshape(-1)
    return TensorPayload(dtype, tuple(tensor.shape), memoryview(elements))


def random_chain(engine: Engine, seed: int, first: LayerSpec) -> dict[str, Any]:
    """The decoded fields of a request for a chain that begins with a given layer."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    dtype = draw.choice(FLOATS)
    fields: dict[str, Any] = {"dtype": dtype, "layers": [], "grad_output": "ones"}
    if draw.random() < 0.3:
        fields["compute_dtype"] = "float64"
    if draw.random() < 0.5:
        fields["convention"] = draw.choice(CONVENTIONS)
    if draw.random() < 0.3:
        fields["layout"] = draw.choice(("channels_first", "channels_last"))
    for _ in range(TRIES):
        dims = draw.choice([dims for dims in SPATIAL if dims + 2 in first.inputs[0].ranks])
        shape = _as_sent((3, 4, *SPATIAL[dims]), fields)
        if found := _one_more(engine, draw, numbers, fields, first, shape):
            break
    else:
        raise AssertionError(f"{first.name} takes none of these")
    fields["input"] = payload(numbers.standard_normal(shape), dtype)
    entry, shape = found
    fields["layers"].append(entry)
    count = draw.randint(1, LONGEST)
    for _ in range(TRIES):
        if len(fields["layers"]) == count:
            break
        if found := _one_more(engine, draw, numbers, fields, draw.choice(CHAINABLE), shape):
            entry, shape = found
            fields["layers"].append(entry)
    if draw.random() < 0.5:
        fields["grad_output"] = payload(numbers.standard_normal(shape), dtype)
    return fields


def _as_sent(shape: tuple[int, ...], fields: Mapping[str, Any]) -> tuple[int, ...]:
    layout = "channels_last" if fields.get("convention") in ("keras", "flax") else "channels_first"
    if fields.get("layout", layout) == "channels_last":
        return (shape[0], *shape[2:], shape[1])
    return shape


def _one_more(
    engine: Engine,
    draw: random.Random,
    numbers: np.random.Generator,
    fields: Mapping[str, Any],
    spec: LayerSpec,
    shape: tuple[int, ...],
) -> tuple[dict[str, Any], tuple[int, ...]] | None:
    """A layer with random options and tensors that fits this input, and its output's shape."""
    dtype = fields["dtype"]
    ports = {port.name for port in spec.inputs}
    case = draw.choice(spec.own_cases).body
    entry = {
        name: value for name, value in case.items() if name not in ports | COMMON | {spec.gradient}
    }
    entry |= {"layer": spec.name, "explain": draw.random() < 0.1}
    if draw.random() < 0.1:
        entry["convention"] = draw.choice(CONVENTIONS)

    def tensor(of: Sequence[int], *, positive: bool = False) -> TensorPayload:
        values = numbers.standard_normal(of)
        return payload(np.abs(values) + 0.1 if positive else values, dtype)

    if spec.family == "conv":
        at = -1 if _as_sent((0, 1, 2), fields)[1] == 2 else 1
        groups = entry.get("groups", 1)
        kernel = torch.tensor(case["weight"]).shape[2:]
        entry["weight"] = tensor((draw.choice((4, 6)), max(1, shape[at] // groups), *kernel))
    wide: dict[str, tuple[int, ...]] = (
        {"running_mean": (), "running_var": ()} if "training" in entry else {}
    )
    nothing = TensorPayload(dtype, shape, memoryview(b""))
    if not entry.get("training", True):
        channels = shape[-1 if _as_sent((0, 1, 2), fields)[1] == 2 and len(shape) > 2 else 1]
        wide = dict.fromkeys(wide, (channels,))
        entry |= {name: tensor(of, positive=True) for name, of in wide.items()}
    try:
        plan, output = _planned(engine, spec, {**fields, "input": nothing}, entry)
        for name, of in plan.inputs.items():
            if name in ("weight", "bias") and name not in entry and draw.random() < 0.6:
                entry[name] = tensor(of)
        if entry.get("training") and draw.random() < 0.5:
            for name in wide:
                entry[name] = tensor(plan.inputs[name], positive=True)
        plan, output = _planned(engine, spec, {**fields, "input": nothing}, entry)
    except InvalidRequest:
        return None
    return entry, output


def alone(fields: Mapping[str, Any], entry: Mapping[str, Any], **tensors: Any) -> Any:
    """The request that one layer of a chain is when it is called alone."""
    spec = LAYERS[entry["layer"]]
    whole = {name: value for name, value in fields.items() if name in COMMON | {"explain"}}
    own = {name: value for name, value in entry.items() if name != "layer"}
    return compute_model(spec).model_validate({**whole, **own, **tensors})


def _planned(
    engine: Engine, spec: LayerSpec, fields: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[Any, tuple[int, ...]]:
    from app.compute.shapes import output_shapes

    call = alone(fields, entry, input=fields["input"])
    plan, _ = engine.plan(spec, call)
    return plan, output_shapes(spec, call, plan)


def one_by_one(engine: Engine, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answers of the layers when each is called alone, with the outputs and gradients of the
    others.
    """
    image, calls = fields["input"], []
    for entry in fields["layers"]:
        calls.append((entry, image))
        spec, call = LAYERS[entry["layer"]], alone(fields, entry, input=image)
        image = engine.run(spec, call, engine.plan(spec, call)[0])["output"]
    answers: list[dict[str, Any]] = []
    upstream = fields["grad_output"]
    for entry, image in reversed(calls):
        spec, call = LAYERS[entry["layer"]], alone(fields, entry, input=image, grad_output=upstream)
        answers.insert(0, engine.run(spec, call, engine.plan(spec, call)[0]))
        upstream = answers[0]["gradients.input"]
    return answers


def tensors_of(answer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, TensorPayload]]:
    """The tensors of an answer whose names begin with a prefix, without it."""
    for name, value in answer.items():
        if name.startswith(prefix) and isinstance(value, TensorPayload):
            yield name.removeprefix(prefix), value


def same(first: TensorPayload, second: TensorPayload) -> bool:
    """Whether two tensors are equal bit for bit; any NaN equals any other."""
    if first[:2] != second[:2]:
        return False
    if bytes(first.data) == bytes(second.data):
        return True
    storage = DTYPES[first.dtype].storage
    one, other = (np.frombuffer(tensor.data, storage) for tensor in (first, second))
    return storage.startswith("<f") and bool(np.array_equal(one, other, equal_nan=True))
