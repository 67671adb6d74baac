"""The frame of safetensors files: golden and hostile bytes, limits, the library both ways, memory.

`golden/` and `hostile/` hold the files and what makes them.
"""

import json
import math
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codecs import safetensors as codec
from app.errors import InvalidRequest, LaminaError
from app.main import create_app
from app.schemas.tensors import TensorField, TensorPayload
from app.settings import Settings
from tests._binary import DTYPES, FILE, JSON, bits, opened, post, post_to, problem, saved
from tests.golden import make as golden
from tests.hostile import make as hostile

pytestmark = pytest.mark.anyio
GOLDEN = {
    "no-metadata": "relu",
    "foreign-metadata": "relu",
    "names-against-their-offsets": "layer_norm",
    "odd-header-length": "relu",
    "no-elements": "relu",
    "one-number": "relu",
}


def split(content: bytes) -> tuple[bytes, bytes]:
    """Header and data."""
    length = struct.unpack("<Q", content[:8])[0]
    return content[8 : 8 + length], content[8 + length :]


@pytest.mark.parametrize("made", [golden, hostile])
def test_the_files_are_those_that_are_made(made: Any) -> None:
    """Those by dtype go through `test_binary.py`."""
    folder = Path(made.__file__).parent
    assert {path.stem: path.read_bytes() for path in folder.glob("*.safetensors")} == made.FILES
    assert made is hostile or made.FILES.keys() == {*GOLDEN, *DTYPES, "answer"}


@pytest.mark.parametrize("name", GOLDEN)
async def test_golden_requests_get_their_input_back(client: httpx.AsyncClient, name: str) -> None:
    content = golden.FILES[name]
    sent = safetensors.torch.load(content)
    tensors, _ = opened(await post(client, GOLDEN[name], content))
    assert bits(tensors["output"]) == bits(sent["input"])


def test_the_golden_answer_is_written_as_it_stands_there() -> None:
    def payload(dtype: str, tensor: torch.Tensor) -> TensorPayload:
        return TensorPayload(dtype, tuple(tensor.shape), memoryview(bits(tensor)[2]))

    ones = {name: torch.ones(3, dtype=dtype) for name, dtype in DTYPES.items()}
    parts = {f"parts.{name}": payload(name, tensor) for name, tensor in ones.items()}
    answer: dict[str, object] = {"layer": "any", "parts.text": "\u00fc", **parts,
              "outputs.0": payload("uint8", torch.ones(0, 2, dtype=torch.uint8)),
              "none": None, "empty": {}, "list": [1, 2]}  # fmt: skip
    content = b"".join(codec.encode(answer))
    assert content == golden.FILES["answer"]
    read = safetensors.torch.load(content)
    assert {name: bits(read[f"parts.{name}"]) for name in DTYPES} == {
        name: bits(tensor) for name, tensor in ones.items()
    }


BROKEN = """
    empty seven-bytes length-0 length-beyond-the-file length-2-to-63 length-2-to-64-less-1
    length-cuts-the-header pickle npz header-after-a-space header-after-a-bom header-in-utf-16
    header-not-utf-8 header-padded-with-nul header-an-array header-twice header-deep
    header-of-a-long-number header-with-nan name-twice member-twice metadata-twice metadata-a-list
    metadata-null metadata-of-numbers request-an-object request-not-json request-cut
    request-an-array request-with-nan request-deep request-a-lone-surrogate entry-a-number
    entry-without-dtype entry-without-shape entry-without-offsets shape-a-number shape-nested
    shape-of-booleans shape-of-floats shape-negative shape-beyond-its-bytes shape-below-its-bytes
    shape-wraps-64-bits shape-of-2-to-124 offsets-of-three offsets-of-floats offsets-of-booleans
    offsets-negative offsets-reversed offsets-beyond-the-file offsets-wrap-64-bits data-cut
    data-missing data-left-over data-of-nobody gap-before gap-between overlap overlap-of-all
    overlap-of-nothing header-over-64-kib extent-2-to-31 extent-2-to-62 tensors-900
"""
WRONG: dict[str, tuple[str, str]] = {
    "request-of-an-unknown-field": ("#/explian", "explain"),
    "request-field-twice": ("#/explain", ""),
    "request-holds-the-input-too": ("#/input", ""),
    "request-holds-a-tensor": ("#/grad_output", ""),
    "request-holds-all-tensors": ("#/input", ""),
    "no-tensor": ("#/input", ""),
    "tensor-unknown": ("#/inptu", "input"),
    "tensor-unknown-in-float64": ("#/inptu", "input"),
    "tensor-of-no-name": ("#/", ""),
    "tensor-named-as-an-option": ("#/explain", ""),
    "tensor-named-dtype": ("#/dtype", ""),
    "tensor-named-as-a-list": ("#/input.0", "input"),
    "tensor-of-a-surrogate": ("#/", ""),
    "rank-9": ("#/input", "8 axes"),
    "rank-10000": ("#/input", "8 axes"),
    "dtype-bool": ("#/input", "got BOOL"),
    "dtype-c64": ("#/input", "got C64"),
    "dtype-f8-e4m3": ("#/input", "got F8_E4M3"),
    "dtype-u16": ("#/input", "got U16"),
    "dtype-small-letters": ("#/input", "got another"),
    "dtype-of-our-own-name": ("#/input", "F32"),
    "dtype-no-float": ("", ""),
    "dtype-other-than-asked": ("#/input", "bfloat16"),
    "dtype-not-a-word": ("#/dtype", ""),
    "dtype-an-object": ("#/dtype", ""),
    "dtype-unknown": ("#/dtype", ""),
    "dtype-mixed": ("#/grad_output", "float64"),
    "dtype-mixed-wider-first": ("#/grad_output", "float64"),
    "list-with-a-gap": ("#/inputs", ""),
    "list-from-1": ("#/inputs", ""),
    "list-of-padded-numbers": ("#/inputs", ""),
    "list-of-letters": ("#/inputs", ""),
    "list-in-one": ("#/inputs", ""),
    "list-and-one": ("#/inputs", ""),
    "list-below-a-list": ("#/inputs", ""),
    "list-number-of-5000-digits": ("#/inputs", ""),
    "list-of-other-digits": ("#/inputs", ""),
    "chain-a-tensor": ("#/layers", ""),
    "chain-layer-a-tensor": ("#/layers/1", ""),
    "chain-index-beyond": ("#/layers/2", ""),
    "chain-index-negative": ("#/layers/-1", ""),
    "chain-index-padded": ("#/layers/01", ""),
    "chain-index-superscript": ("#/layers/\u00b2", ""),
    "chain-index-of-other-digits": ("#/layers/\u0661", ""),
    "chain-tensor-unknown": ("#/layers/1/wieght", ""),
    "chain-name-with-a-slash": ("#/layers/1/a~1b", ""),
    "result-unknown": ("#/expected/outptu", "output"),
    "result-twice": ("#/expected/output", ""),
    "result-in-a-shape": ("#/expected/output_shape", ""),
    "result-below-a-result": ("#/expected/output.0", ""),
    "result-of-another-dtype": ("#/expected/output", "float32"),
    "result-in-a-number": ("#/expected", ""),
}
HOSTILE = {**dict.fromkeys(BROKEN.split(), (400, "", "")),
           **{name: (422, *expected) for name, expected in WRONG.items()}}  # fmt: skip

PATHS = {
    "list": "layers/sync_batch_norm", "chain": "sequential", "result": "layers/relu/check"
}  # fmt: skip


@pytest.mark.parametrize("name", hostile.ATTACKS)
async def test_hostile_files(client: httpx.AsyncClient, name: str) -> None:
    status, pointer, said = HOSTILE[name]
    path = PATHS.get(name.partition("-")[0], "layers/relu")
    wrong = problem(await post_to(client, path, hostile.ATTACKS[name]), status)
    assert said in wrong["detail"]
    assert not pointer or wrong["errors"][0]["pointer"] == pointer
    again = await post_to(client, path, hostile.ATTACKS[name], JSON)
    assert again.json() | {"request_id": ""} == wrong | {"request_id": ""}


async def test_what_the_attacks_are_made_from_is_no_attack(client: httpx.AsyncClient) -> None:
    assert hostile.ATTACKS.keys() == HOSTILE.keys()
    for header in (hostile.BASE, hostile.asked('{"explain": true}')):
        tensors, _ = opened(await post(client, "relu", hostile.framed(header)))
        assert tensors["output"].tolist() == [1, 0]
    halves = hostile.HALF, hostile.REST
    for first, second in (halves, halves[::-1]):
        content = hostile.framed(hostile.two(first, second))
        assert "gradients.input" in opened(await post(client, "relu", content))[0]
    content = hostile.listed({"inputs.0": hostile.ROW, "inputs.1": hostile.NEXT_ROW})
    assert "outputs.1" in opened(await post(client, "sync_batch_norm", content))[0]


async def test_every_cut_of_a_good_file_is_refused(client: httpx.AsyncClient) -> None:
    whole = golden.FILES["float32"]
    for length in range(len(whole)):
        problem(await post(client, "max_pool2d", whole[:length]), 400)


@pytest.mark.parametrize("flipped", [0x01, 0x20, 0x80])
async def test_a_flipped_bit_is_never_our_fault(client: httpx.AsyncClient, flipped: int) -> None:
    whole = golden.FILES["foreign-metadata"]
    seen = set()
    for place in range(len(whole) - 8):
        broken = bytearray(whole)
        broken[place] ^= flipped
        response = await post(client, "relu", bytes(broken))
        seen.add(response.status_code)
        if response.status_code != 200:
            problem(response, 400, 422)
    assert 400 in seen


def sized(length: int) -> bytes:
    """A good file of that many bytes, filled up with float32 and spaces."""
    frame, header = 8, 200
    count, spaces = divmod(length - frame - header, 4)
    text = json.dumps({"input": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}})
    content = hostile.framed(text.ljust(header + spaces).encode(), b"\0" * 4 * count)
    assert len(content) == length
    return content


@pytest.fixture
async def narrow() -> AsyncIterator[httpx.AsyncClient]:
    """A service that takes 5000 bytes of safetensors, and 2000 of JSON."""
    settings = Settings(max_binary_body_bytes=5000, max_json_body_bytes=2000)
    transport = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def chunked(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 700):
        yield content[start : start + 700]


@pytest.mark.parametrize(("length", "status"), [(4999, 200), (5000, 200), (5001, 413)])
async def test_the_limit_of_a_file(narrow: httpx.AsyncClient, length: int, status: int) -> None:
    content = sized(length)
    headers = {"Content-Type": FILE}
    for body in (content, chunked(content)):
        response = await narrow.post("/v1/layers/relu", content=body, headers=headers)
        assert response.status_code == status
        if status == 413:
            problem(response, 413)
        else:
            assert len(response.json()["output"]) == (length - 208) // 4


@pytest.mark.parametrize(("length", "status"), [(1999, 200), (2000, 200), (2001, 413)])
async def test_json_has_a_limit_of_its_own(
    narrow: httpx.AsyncClient, length: int, status: int
) -> None:
    body = b'{"input": [1]}'.ljust(length)
    assert (await post(narrow, "relu", body, FILE, JSON)).status_code == status


async def test_the_limits_are_told(client: httpx.AsyncClient, narrow: httpx.AsyncClient) -> None:
    for http, file, text in ((client, 64 << 20, 16 << 20), (narrow, 5000, 2000)):
        limits = (await http.get("/v1/info")).json()["limits"]
        assert limits["max_binary_body_bytes"] == file
        assert limits["max_json_body_bytes"] == text


@pytest.mark.parametrize(("length", "status"), [(65_536, 200), (65_537, 400)])
async def test_the_limit_of_a_header(client: httpx.AsyncClient, length: int, status: int) -> None:
    header, data = split(saved({"input": torch.ones(2)}))
    content = hostile.framed(header.ljust(length), data)
    assert (await post(client, "relu", content, JSON)).status_code == status


async def test_an_answers_header_has_no_such_limit(client: httpx.AsyncClient) -> None:
    x = torch.arange(4096.0).view(1, 1, 64, 64)
    body = saved({"input": x}, kernel_size=1, explain=True)
    tensors, rest = opened(await post(client, "max_pool2d", body))
    assert bits(tensors["output"]) == bits(x)
    assert len(rest["explanation"]["windows"]) == 4096


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_files_of_the_library_are_read_and_ours_are_read_by_it(data: Any) -> None:
    dtype, kind = data.draw(st.sampled_from([*DTYPES.items()]))
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4)))
    size = math.prod(shape) * kind.itemsize
    raw = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    tensor = torch.frombuffer(raw, dtype=kind).view(shape) if size else torch.empty(shape).to(kind)
    content = saved({"input": tensor})
    fields = codec.decode(content, {"input": TensorField()}, max_rank=8, max_list=0)
    payload: Any = fields["input"]
    assert (fields["dtype"], payload.shape, bytes(payload.data)) == (dtype, shape, bytes(raw))
    written = b"".join(codec.encode({"dtype": dtype, "a.b": payload, "none": None}))
    back = safetensors.torch.load(written)["a.b"]
    assert bits(back) == (kind, shape, bytes(raw))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_random_bytes_are_refused_and_nothing_else(noise: bytes, length: int) -> None:
    for body in (noise, struct.pack("<Q", length) + noise):
        try:
            codec.decode(body, {"input": TensorField()}, max_rank=8, max_list=2)
        except LaminaError:
            continue
        assert body[8:].strip().startswith(b"{")


def test_tensors_are_views_of_the_body() -> None:
    body = bytearray(saved({"input": torch.zeros(1000)}))
    payload: Any = codec.decode(body, {"input": TensorField()}, max_rank=8, max_list=0)["input"]
    body[-4:] = struct.pack("<f", 7)
    assert struct.unpack("<f", payload.data[-4:])[0] == 7
    written = codec.encode({"output": TensorPayload("float32", (1000,), payload.data)})
    body[-4:] = struct.pack("<f", 8)
    assert struct.unpack("<f", bytes(written[-1][-4:]))[0] == 8


def test_axes_are_counted_before_there_is_a_payload() -> None:
    with pytest.raises(InvalidRequest, match="at most 8 axes"):
        codec.decode(hostile.ATTACKS["rank-9"], {"input": TensorField()}, max_rank=8, max_list=0)


def test_unaligned_bodies_are_moved() -> None:
    header, data = split(saved({"input": torch.ones(3)}))
    shifted = bytearray(hostile.framed(header + b" ", data))
    payload: Any = codec.decode(shifted, {"input": TensorField()}, max_rank=8, max_list=0)["input"]
    assert np.frombuffer(payload.data, "<f4").flags.aligned
    assert np.frombuffer(payload.data, "<f4").tolist() == [1, 1, 1]
