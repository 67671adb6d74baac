"""Tensors as bytes over HTTP: safetensors files both ways, base64, and hostile frames."""

import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codecs import safetensors as codec
from app.errors import LaminaError
from app.main import create_app
from app.schemas.tensors import DTYPES, TensorField, TensorPayload
from app.settings import Settings

pytestmark = pytest.mark.anyio
BINARY, JSON = "application/vnd.safetensors", "application/json"
FLOATS = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture
async def small() -> AsyncIterator[httpx.AsyncClient]:
    """A service that takes binary bodies of 4096 bytes at most."""
    transport = httpx.ASGITransport(create_app(Settings(max_binary_body_bytes=4096)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


def file(tensors: dict[str, torch.Tensor], request: dict[str, Any] | None = None) -> bytes:
    metadata = None if request is None else {"request": json.dumps(request)}
    return safetensors.torch.save(tensors, metadata)


async def post(
    http: httpx.AsyncClient, layer: str, content: bytes, sent: str = BINARY, accept: str = BINARY
) -> httpx.Response:
    headers = {"Content-Type": sent, "Accept": accept}
    return await http.post(f"/v1/layers/{layer}", content=content, headers=headers)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
async def test_a_pooling_with_its_gradient(client: httpx.AsyncClient, dtype: str) -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).to(
        getattr(torch, dtype)
    )
    options = {"kernel_size": 2, "return_indices": True}
    grad = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(x)
    response = await post(client, "max_pool2d", file({"input": x, "grad_output": grad}, options))
    assert response.headers["Content-Type"] == BINARY
    assert "Server-Timing" in response.headers
    answer = safetensors.torch.load(response.content)
    leaf = x.double().requires_grad_()
    output, indices = F.max_pool2d(leaf, 2, return_indices=True)
    output.backward(grad.double())
    assert leaf.grad is not None
    assert bits(answer["output"]) == bits(output.detach().to(x))
    assert torch.equal(answer["indices"], indices)
    assert bits(answer["gradients.input"]) == bits(leaf.grad.to(x))
    header = json.loads(response.content[8 : 8 + struct.unpack("<Q", response.content[:8])[0]])
    rest = json.loads(header["__metadata__"]["response"])
    assert rest["dtype"] == dtype
    assert rest["output_shape"] == [2, 3, 3, 3]
    assert rest["options"]["kernel_size"] == [2, 2]
    assert not {"output", "gradients", "indices"} & rest.keys()


async def test_request_and_answer_choose_independently(client: httpx.AsyncClient) -> None:
    binary = file({"input": torch.tensor([-1.0, 2.0])})
    text = b'{"input": [-1, 2]}'
    for content, sent in ((binary, BINARY), (text, JSON)):
        for accept, kind in (
            (BINARY, BINARY),
            (JSON, JSON),
            ("*/*", JSON),
            (f"{BINARY}, {JSON};q=0.5", BINARY),
            (f"{BINARY};q=0.1, {JSON}", JSON),
        ):
            response = await post(client, "relu", content, sent, accept)
            assert response.headers["Content-Type"] == kind
            if kind == JSON:
                assert response.json()["output"] == [0.0, 2.0]
            else:
                assert safetensors.torch.load(response.content)["output"].tolist() == [0.0, 2.0]


async def test_lists_of_tensors_and_state(client: httpx.AsyncClient) -> None:
    inputs = {f"inputs.{i}": torch.randn(n, 3) for i, n in ((1, 1), (0, 4))}
    request = {"training": True, "grad_outputs": "ones"}
    response = await post(client, "sync_batch_norm", file(inputs, request))
    answer = safetensors.torch.load(response.content)
    joined = torch.cat([inputs["inputs.0"], inputs["inputs.1"]])
    torch.testing.assert_close(answer["batch_stats.mean"], joined.mean(0))
    assert answer["outputs.0"].shape == (4, 3)
    assert answer["outputs.1"].shape == (1, 3)
    assert answer["gradients.inputs.1"].shape == (1, 3)
    assert answer["replicas.0.output"].shape == (4, 3)
    assert answer["running_stats.num_batches_tracked"].item() == 1


@pytest.mark.parametrize("dtype", DTYPES)
async def test_base64_is_bit_exact(client: httpx.AsyncClient, dtype: str) -> None:
    x = torch.arange(12).view(1, 1, 3, 4).to(getattr(torch, dtype))
    packed = {"shape": [1, 1, 3, 4], "dtype": dtype, "base64": base64.b64encode(bits(x)).decode()}
    body = {"input": packed, "dtype": dtype, "kernel_size": 1, "encoding": "base64"}
    answer = (await client.post("/v1/layers/max_pool2d", json=body)).json()
    assert answer["output"] == packed


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"base64": "AAAAAA=="[:-1]}, "#/input/base64"),
        ({"base64": "AAAA\nAA=="}, "#/input/base64"),
        ({"base64": "AA-_AA=="}, "#/input/base64"),
        ({"base64": "AAAAAAA="}, "#/input/base64"),
        ({"shape": [2]}, "#/input/base64"),
        ({"shape": [2**62, 2**62]}, "#/input/base64"),
        ({"dtype": "float64"}, "#/input/dtype"),
        ({"data": [1]}, "#/input"),
        ({"dtype": None}, "#/input"),
    ],
)
async def test_broken_base64_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    packed = {"shape": [1], "dtype": "float32", "base64": "AAAAAA==", **change}
    body = {"input": {k: v for k, v in packed.items() if v is not None}}
    response = await client.post("/v1/layers/relu", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer


async def test_the_limit_of_a_binary_body(small: httpx.AsyncClient) -> None:
    def sized(length: int) -> bytes:
        content = file({"input": torch.zeros((length - 200) // 4)})
        header = 8 + struct.unpack("<Q", content[:8])[0]
        padding = b" " * (length - len(content))
        grown = struct.pack("<Q", header - 8 + len(padding))
        return grown + content[8:header] + padding + content[header:]

    for length, status in ((4095, 200), (4096, 200), (4097, 413)):
        content = sized(length)
        assert len(content) == length
        assert (await post(small, "relu", content)).status_code == status


def framed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> Any:
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ONE = entry(0, 4)
HOSTILE: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "seven-bytes": (b"\0" * 7, 400),
    "header-behind-the-end": (struct.pack("<Q", 100) + b"{}", 400),
    "header-of-2^63": (struct.pack("<Q", 2**63) + b"{}", 400),
    "header-over-64-kib": (framed(b"{}" + b" " * 65_536), 400),
    "header-no-json": (framed(b"{"), 400),
    "header-deep": (framed(b"[" * 60_000), 400),
    "header-a-list": (framed([]), 400),
    "header-no-utf8": (framed(b'{"\xff": 1}'), 400),
    "metadata-numbers": (framed({"__metadata__": {"request": 1}}), 400),
    "request-no-json": (framed({"__metadata__": {"request": "{"}}), 400),
    "request-a-list": (framed({"__metadata__": {"request": "[]"}}), 400),
    "entry-a-number": (framed({"input": 1}), 400),
    "offsets-behind-the-end": (framed({"input": entry(0, 8)}, b"\0" * 4), 400),
    "offsets-negative": (framed({"input": entry(-4, 0, [1])}, b"\0" * 4), 400),
    "offsets-floats": (
        framed({"input": {**ONE, "data_offsets": [0.0, 4.0]}}, b"\0" * 4), 400,
    ),
    "shape-product-overflows": (framed({"input": entry(0, 4, [2**31 - 1] * 4)}, b"\0" * 4), 400),
    "shape-of-2^62": (framed({"input": entry(0, 0, [0, 2**62])}), 400),
    "shape-booleans": (framed({"input": entry(0, 4, [True])}, b"\0" * 4), 400),
    "overlap": (framed({"input": entry(0, 8), "grad_output": entry(4, 8)}, b"\0" * 8), 400),
    "same-bytes-twice": (framed({"input": ONE, "grad_output": ONE}, b"\0" * 4), 400),
    "gap": (framed({"input": ONE, "grad_output": entry(8, 12)}, b"\0" * 12), 400),
    "trailing-bytes": (framed({"input": ONE}, b"\0" * 5), 400),
    "name-twice": (
        framed(b'{"input":%b,"input":%b}' % ((json.dumps(ONE).encode(),) * 2), b"\0" * 4), 400,
    ),
    "many-tensors": (framed({f"t{i}": entry(0, 0, [0]) for i in range(900)}), 400),
    "rank-9": (framed({"input": entry(0, 4, [1] * 9)}, b"\0" * 4), 422),
    "bool": (framed({"input": entry(0, 4, [4], "BOOL")}, b"\0" * 4), 422),
    "float8": (framed({"input": entry(0, 4, [4], "F8_E4M3")}, b"\0" * 4), 422),
    "unknown-tensor": (framed({"inptu": ONE}, b"\0" * 4), 422),
    "list-with-a-gap": (framed({"inputs.0": ONE, "inputs.2": entry(4, 8)}, b"\0" * 8), 422),
    "tensor-in-the-request": (
        framed({"__metadata__": {"request": '{"input": [1]}'}, "input": ONE}, b"\0" * 4), 422,
    ),
    "other-dtype": (
        framed({"__metadata__": {"request": '{"dtype": "float64"}'}, "input": ONE}, b"\0" * 4), 422,
    ),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.", 400),
    "npz": (b"PK\x03\x04" + b"\0" * 60, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_files_are_problems(client: httpx.AsyncClient, name: str) -> None:
    content, status = HOSTILE[name]
    layer = "sync_batch_norm" if "list" in name and status == 422 else "relu"
    response = await post(client, layer, content)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    if name == "unknown-tensor":
        assert "did you mean input?" in response.json()["detail"]


async def test_a_shape_request_is_json(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/layers/relu/shape", content=b"", headers={"Content-Type": BINARY}
    )
    assert response.status_code == 415


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_files_of_the_library_are_read_and_ours_are_read_by_it(data: Any) -> None:
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4)))
    size = math.prod(shape) * DTYPES[dtype].itemsize
    raw = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    kind = getattr(torch, dtype)
    tensor = torch.frombuffer(raw, dtype=kind).view(shape) if size else torch.empty(shape).to(kind)
    fields = codec.decode(file({"input": tensor}), {"input": TensorField()}, max_rank=8, max_list=0)
    payload: Any = fields["input"]
    assert (fields["dtype"], payload.shape, bytes(payload.data)) == (dtype, shape, bytes(raw))
    written = b"".join(codec.encode({"dtype": dtype, "a": {"b": payload}, "none": None}))
    back = safetensors.torch.load(written)["a.b"]
    assert (back.dtype, tuple(back.shape), bits(back)) == (kind, shape, bytes(raw))


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
    body = bytearray(file({"input": torch.zeros(1000)}))
    payload: Any = codec.decode(body, {"input": TensorField()}, max_rank=8, max_list=0)["input"]
    body[-4:] = struct.pack("<f", 7)
    assert struct.unpack("<f", payload.data[-4:])[0] == 7
    written = codec.encode({"output": TensorPayload("float32", (1000,), payload.data)})
    body[-4:] = struct.pack("<f", 8)
    assert struct.unpack("<f", bytes(written[-1][-4:]))[0] == 8


def test_every_tensor_begins_at_a_multiple_of_its_elements_size() -> None:
    payloads = {
        dtype: TensorPayload(dtype, (3,), memoryview(bytes(3 * row.itemsize)))
        for dtype, row in sorted(DTYPES.items(), key=lambda item: item[1].itemsize)
    }
    written = b"".join(codec.encode(payloads))
    length = struct.unpack("<Q", written[:8])[0]
    header = json.loads(written[8 : 8 + length])
    assert length % 8 == 0
    for dtype, row in DTYPES.items():
        assert header[dtype]["data_offsets"][0] % row.itemsize == 0


def test_unaligned_bodies_are_moved() -> None:
    content = file({"input": torch.ones(3)})
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    shifted = bytearray(struct.pack("<Q", length + 1) + header + b" " + data)
    payload: Any = codec.decode(shifted, {"input": TensorField()}, max_rank=8, max_list=0)["input"]
    assert np.frombuffer(payload.data, "<f4").flags.aligned
    assert np.frombuffer(payload.data, "<f4").tolist() == [1, 1, 1]
