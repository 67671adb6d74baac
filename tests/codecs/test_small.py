"""Small documents are decoded by a reader of their own: it must agree with the one for large ones.

Spaces behind a document make it a large one.
"""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.codecs import json as codec
from app.codecs._arrays import as_array
from app.codecs.json._reader import SMALL_BYTES
from app.codecs.json._small import decode_small
from app.errors import LaminaError
from app.schemas.tensors import DTYPES, Field, GroupField, TensorField, TensorPayload

FIELDS: dict[str, Field] = {
    "input": TensorField(),
    "indices": TensorField(dtype="int64"),
    "inputs": TensorField(many=True),
    "stats": GroupField({"mean": TensorField()}),
    "layers": GroupField({"weight": TensorField()}, most=2),
}


def outcome(body: bytes) -> object:
    """What `decode` returns, with tensors as bits, or the error that it raises."""
    try:
        return plain(codec.decode(body, FIELDS, max_rank=4, max_list=2))
    except LaminaError as error:
        return type(error), str(error), getattr(error, "errors", None)


def plain(value: Any) -> Any:
    """The value with a type beside each number: 1 and 1.0 and true are different."""
    if isinstance(value, TensorPayload):
        return value.dtype, value.shape, as_array(value).tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value), *map(plain, value)]
    return type(value), value


def large(body: bytes) -> bytes:
    """The same document, with spaces behind it."""
    return body + b" " * SMALL_BYTES


DOCUMENTS = (
    b'{"input": [[1, 2.5], [-0, -0.0]], "kernel_size": [2, 3], "training": true, "x": null}',
    b'{"input": [[1], [2, 3]]}',
    b'{"input": [[], [1]]}',
    b'{"input": [[], ""]}',
    b'{"input": [[], {}]}',
    b'{"input": [[1], "a"]}',
    b'{"input": [[1], {"a": 1}]}',
    b'{"input": [1, true]}',
    b'{"input": [1, null]}',
    b'{"input": ["NaN", 1]}',
    b'{"input": ["1.5"]}',
    b'{"input": []}',
    b'{"input": [[[]]]}',
    b'{"input": [[[[[1]]]]]}',
    b'{"input": {"shape": [2], "data": [1, 2]}}',
    b'{"input": [1], "input": [2]}',
    b'{"a": {"b": 1, "b": 2}}',
    b'{"stats": {"mean": [1], "mean": [2]}}',
    b'{"stats": {"mean": [[1], [2, 3]], "n": 1}}',
    b'{"stats": {"mean": [1, 2], "count": 3}}',
    b'{"stats": [1]}',
    b'{"layers": [{"weight": [1]}, {"weight": [2], "k": [1, [2]]}]}',
    b'{"layers": [{}, {}, {}]}',
    b'{"layers": [1, {}]}',
    b'{"layers": {"weight": [1]}}',
    b'{"inputs": [[1], [2]]}',
    b'{"inputs": [[1], 2]}',
    b'{"inputs": [[1], [2], [3]]}',
    b'{"inputs": {"a": 1}}',
    b'{"note": "a: b", "input": [1]}',
    b'{"na\\u0000me": 1}',
    b'{"input": [1e400]}',
    b'{"input": [1e39]}',
    b'{"input": [1e-46, 3.4028235677973366e38]}',
    b'{"input": [100000000000000000000, 18446744073709551615]}',
    b'{"indices": [9223372036854775807, -9223372036854775808]}',
    b'{"indices": [9223372036854775808]}',
    b'{"indices": [1.0]}',
    b'{"dtype": "uint8", "input": [256]}',
    b'{"dtype": "uint8", "input": [-0, 255]}',
    b'{"dtype": "bfloat16", "input": [1.00390625, 3.4e38]}',
    b'{"dtype": "float16", "input": [65519.999, 65520]}',
    b'{"dtype": "nothing", "input": [1.5]}',
    b'{"dtype": ["float32"], "input": [1.5]}',
    b'{"dtype": 3, "input": [1.5]}',
    b'{"options": {"a": [1]}}',
    b'{"many": [%s]}' % b",".join([b"1"] * 300),
    b"{%s}" % b",".join(b'"a%d":1' % i for i in range(300)),
    b'\xef\xbb\xbf{"input": [1]}',
    b'{"input": [\xff]}',
    b'{"input": "ones"}',
    b'{"input": [NaN]}',
    b"[1]",
    b"3",
    b"",
    b"{]",
    b'{"input": ' + b"[" * 1200 + b"]" * 1200 + b"}",
)


@pytest.mark.parametrize("body", DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_both_readers_agree_on_odd_documents(body: bytes) -> None:
    assert outcome(body) == outcome(large(body))


def test_the_usual_document_is_decoded_as_a_small_one() -> None:
    body = b'{"input": [[1, 2]], "kernel_size": [1, 2], "stats": {"mean": [1]}}'
    found = decode_small(body, FIELDS, max_rank=4, max_list=2)
    assert found is not None
    assert found["input"].shape == (1, 2)


leaves = st.one_of(
    st.integers(-(10**20), 10**20), st.floats(allow_nan=False, width=32), st.floats(allow_nan=False)
)
odd = st.one_of(leaves, st.booleans(), st.none(), st.sampled_from(["NaN", "", "a:b"]))


@st.composite
def tensors(draw: Any) -> Any:
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    values = np.empty(shape, object)
    for place in np.ndindex(*shape):
        values[place] = draw(leaves)
    nested = values.tolist()
    if draw(st.booleans()):
        return nested
    inner = nested
    while isinstance(inner, list) and inner and isinstance(inner[0], list):
        inner = draw(st.sampled_from(inner))
    if isinstance(inner, list):
        inner.append(draw(odd))
    return nested


names = st.sampled_from([*FIELDS, "dtype", "other"])
values = st.one_of(tensors(), odd, st.sampled_from(sorted(DTYPES)))
objects = st.dictionaries(names | st.sampled_from(["mean", "weight"]), values, max_size=3)


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(names, values | objects | st.lists(objects, max_size=3), max_size=4))
@example({"input": [[1.0], [True]]})
def test_both_readers_agree(document: dict[str, Any]) -> None:
    body = json.dumps(document).replace("Infinity", "1e999").encode()
    assert outcome(body) == outcome(large(body))
