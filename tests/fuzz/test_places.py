"""Every place of every operation's example, with every value that does not belong there: a wrong
place is refused with a pointer that leads to it, and nothing fails.
"""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from app.codecs import JSON, SAFETENSORS
from tests._soak import SOAK, rounds
from tests.fuzz._endpoints import ENDPOINTS, Endpoint, taken
from tests.fuzz._seeds import Arrays, bodies, file, split

LEFT_OUT = re.compile(r"$^" if SOAK else r"layers/\w+[13]d/")
"""In the short run a layer's one and three dimensions: they share its two dimensions' code."""
PATHS = [path for path in ENDPOINTS if not LEFT_OUT.match(path)]
BINARY = [path for path in PATHS if SAFETENSORS in ENDPOINTS[path].codecs]
STEP = rounds(5, 1)
"""In the short run an operation gets a part of the changes, not all the same part."""
Path = tuple[str | int, ...]
VALUES: tuple[Any, ...] = (
    None, True, "", "x", "ones", 0, -1, 1.5, 2**31, 2**63, 10**400, 1e308, "NaN", "Infinity",
    "torch", "keras", [], {}, [[]], [None], [1, "x"], [[1, 2], [3]], [{}], [{"layer": "relu"}],
    {"a": {"b": [1]}}, {"shape": [2**62, 2**62], "data": []}, {"shape": [0, 3], "data": []},
    {"shape": [1, 0, 1], "data": []}, {"shape": [0, 1, 2, 2], "data": []},
    {"shape": [1], "data": [1]}, {"shape": [2], "dtype": "float64", "base64": "AAAA"},
)  # fmt: skip
NAMES = (
    "inptu", "a/b~c", "a.b", "", "x" * 200, "input", "input.0", "gradients.input", "dtype",
    "compute_dtype", "convention", "layout", "batched", "encoding", "explain", "training",
    "grad_output", "running_stats", "layer", "layers", "input_shape", "return_intermediate",
)  # fmt: skip
NAMED: tuple[Any, ...] = (1, None, True, "float16", [1], {})
TENSORS = (
    "input", "input.0", "x", "", ".", "a..b", "a/b", "request", "request.input", "request.dtype",
    "request.request.input", "expected", "expected.output", "expected.output.0", "expected.a.b",
    "expected.gradients.input", "expected.output_shape", "expected.replicas.0.output", "layers",
    "layers.0", "layers.0.weight", "layers.1.weight", "layers.01.weight", "layers.-1.weight",
    "layers.9.weight", f"layers.{'9' * 5000}.weight", "layers.0.weight.0", "layers.0.layer",
    "layers.\u0661.weight", "layers.\u00b2.weight", "layers.0.input", "conv",
    "conv.weight", "conv.conv.weight", "conv.eps", "batch_norm.running_var", "batch_norm.weight",
    "x." * 400,
)  # fmt: skip


@pytest.mark.parametrize("path", ENDPOINTS)
def test_examples_are_answered(path: str) -> None:
    for media, body in bodies(ENDPOINTS[path]):
        assert taken(ENDPOINTS[path], media, body), media


@pytest.mark.parametrize("path", PATHS)
def test_every_place_with_every_value(path: str) -> None:
    every = changed(json.loads(json.dumps(ENDPOINTS[path].example)))
    for body in itertools.islice(every, len(path) % STEP, None, STEP):
        _feed(ENDPOINTS[path], JSON, json.dumps(body).encode())


@pytest.mark.parametrize("path", BINARY)
def test_every_tensor_of_a_file_renamed_and_changed(path: str) -> None:
    endpoint = ENDPOINTS[path]
    tensors, rest = split(endpoint, endpoint.example)
    for changed_tensors in _changed_tensors(tensors):
        _feed(endpoint, SAFETENSORS, file(changed_tensors, rest))
    for other in ({}, {**rest, "dtype": "float64"}, *map(rest_with, (rest,) * 3, VALUES[:3])):
        _feed(endpoint, SAFETENSORS, file(tensors, other))


def rest_with(rest: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """The rest of a request with each of its fields set to a value."""
    return dict.fromkeys(rest, value)


def changed(whole: Any) -> Iterator[Any]:
    """The document with one place changed, taken out or added, in every way."""
    for path, node in _places(whole, ()):
        for value in VALUES:
            yield _with(whole, path, value)
        if path:
            without = copy.deepcopy(whole)
            del _node(without, path[:-1])[path[-1]]
            yield without
        if isinstance(node, dict):
            for name in NAMES:
                for value in NAMED:
                    yield _with(whole, (*path, name), value)


def _places(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every value of a document, and of lists the first two entries."""
    yield path, node
    inner: Any = node.items() if isinstance(node, dict) else []
    inner = enumerate(node[:2]) if isinstance(node, list) else inner
    for key, item in inner:
        yield from _places(item, (*path, key))


def _node(whole: Any, path: Path) -> Any:
    for key in path:
        whole = whole[key]
    return whole


def _with(whole: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    whole = copy.deepcopy(whole)
    _node(whole, path[:-1])[path[-1]] = value
    return whole


def _changed_tensors(tensors: Arrays) -> Iterator[Arrays]:
    for name, array in tensors.items():
        others = {key: other for key, other in tensors.items() if key != name}
        yield others
        for new in TENSORS:
            yield {**others, new: array}
            yield {**tensors, new: array[..., :1]}
        for shape in ((), (0,), (0, 2**40), (1,) * 8, (1,) * 9, (0, *array.shape[1:])):
            size = int(np.prod(shape))
            yield {**tensors, name: np.resize(array, size).reshape(shape)}
        for number in (np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0):
            if array.dtype.kind == "f":
                yield {**tensors, name: np.full_like(array, number)}
        for dtype in ("f2", "f8", "i1", "u1", "i4", "i8"):
            yield {**tensors, name: array.astype(dtype)}


def _feed(endpoint: Endpoint, media: str, body: bytes) -> None:
    try:
        taken(endpoint, media, body)
    except Exception as error:
        pytest.fail(f"{endpoint.path}: {body[:2000]!r}: {error!r}")
