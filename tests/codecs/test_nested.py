"""Tensors anywhere in a request, in JSON and by dotted names, with pointers along the path."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from app.codecs import json, nested
from app.codecs import safetensors as codec
from app.errors import InvalidRequest
from app.schemas.tensors import Field, GroupField, TensorField, TensorPayload

CHAIN: dict[str, Field] = {
    "input": TensorField(),
    "layers": GroupField({"weight": TensorField(), "index": TensorField("int64")}, most=3),
    "expected": GroupField(
        {"output": TensorField(), "gradients": GroupField({"input": TensorField()})}
    ),
}


def read(text: str) -> Any:
    return json.decode(text.encode(), CHAIN, max_rank=3, max_list=4)


def numbers(payload: TensorPayload) -> list[float]:
    kind = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}[payload.dtype]
    found: list[float] = np.frombuffer(payload.data, kind).tolist()
    return found


def test_tensors_are_read_where_they_stand() -> None:
    fields = read(
        '{"dtype": "float64", "layers": [{"layer": "conv", "weight": [[1, 2]]},'
        ' {"index": [3], "padding": [1, 2]}],'
        ' "expected": {"output": [4], "gradients": {"input": {"shape": [1], "data": [5]}}}}'
    )
    first, second = fields["layers"]
    assert (first["layer"], numbers(first["weight"])) == ("conv", [1, 2])
    assert (second["index"].dtype, numbers(second["index"])) == ("int64", [3])
    assert second["padding"] == [1, 2]
    assert numbers(fields["expected"]["output"]) == [4]
    assert numbers(fields["expected"]["gradients"]["input"]) == [5]


WRONG = {
    '{"layers": [{}, {"weight": [[1, 2], [3]]}]}': "#/layers/1/weight/1",
    '{"layers": [{}, {"weight": [[1, 2, 3], [4]], "x": 1}]}': "#/layers/1/weight/1",
    '{"layers": [{"weight": [1, true]}]}': "#/layers/0/weight/1",
    '{"layers": [{"index": [1.5]}]}': "#/layers/0/index/0",
    '{"layers": [{"weight": {"shape": [2], "data": [1]}}]}': "#/layers/0/weight/data",
    '{"layers": [{"weight": [[[[1]]]]}]}': "#/layers/0/weight",
    '{"layers": [{"a": 1, "a": 2}]}': "#/layers/0/a",
    '{"layers": [{}, {}, {}, {}]}': "#/layers",
    '{"layers": {"weight": [1]}}': "#/layers",
    '{"expected": {"gradients": {"input": ["x"]}}}': "#/expected/gradients/input/0",
}


@pytest.mark.parametrize("text", WRONG)
def test_pointers_follow_the_path(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(text)
    assert caught.value.errors[0].pointer == WRONG[text]


def test_what_is_no_object_is_left_to_the_model() -> None:
    assert read('{"layers": [3, "x", [1]], "expected": 4}') == {
        "layers": [3, "x", [1]],
        "expected": 4,
    }


def test_dotted_names_lead_to_the_same_places() -> None:
    one = np.array([1.0, 2.0], np.float32)
    content = safetensors.numpy.save(
        {"layers.1.weight": one, "expected.gradients.input": 2 * one, "input": 3 * one},
        {"request": '{"layers": [{"layer": "relu"}, {"layer": "conv"}]}'},
    )
    fields: Any = codec.decode(bytearray(content), CHAIN, max_rank=3, max_list=4)
    assert fields["layers"][0] == {"layer": "relu"}
    assert numbers(fields["layers"][1]["weight"]) == [1, 2]
    assert numbers(fields["expected"]["gradients"]["input"]) == [2, 4]
    assert (fields["dtype"], numbers(fields["input"])) == ("float32", [3, 6])


MISPLACED: dict[str, tuple[str, str, str]] = {
    "no such entry": ("layers.2.weight", '{"layers": [{}, {}]}', "#/layers/2"),
    "no number": ("layers.x.weight", '{"layers": [{}]}', "#/layers/x"),
    "no list": ("layers.0.weight", "{}", "#/layers/0"),
    "no object": ("layers.0.weight", '{"layers": [3]}', "#/layers/0"),
    "given twice": ("expected.output", '{"expected": {"output": 1}}', "#/expected/output"),
    "another dtype": ("layers.0.index", '{"layers": [{}]}', "#/layers/0/index"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_names_that_lead_nowhere_are_refused(case: str) -> None:
    name, request, pointer = MISPLACED[case]
    content = safetensors.numpy.save({name: np.ones(2, np.float32)}, {"request": request})
    with pytest.raises(InvalidRequest) as caught:
        codec.decode(bytearray(content), CHAIN, max_rank=3, max_list=4)
    assert caught.value.errors[0].pointer == pointer


FLAT: dict[str, tuple[dict[str, object], object]] = {
    "objects": ({"a.b": 1, "a.c.d": 2, "e": 3}, {"a": {"b": 1, "c": {"d": 2}}, "e": 3}),
    "lists": ({"o.0": 1, "o.1": 2}, {"o": [1, 2]}),
    "lists of objects": (
        {"r.0.x": 1, "r.0.s.m": 2, "r.1.x": 3},
        {"r": [{"x": 1, "s": {"m": 2}}, {"x": 3}]},
    ),
}


@pytest.mark.parametrize("case", FLAT)
def test_flat_names_nest(case: str) -> None:
    flat, expected = FLAT[case]
    make: Callable[[dict[str, object]], object] = nested
    assert make(flat) == expected
