"""Calls with bytes: files of the safetensors library, what comes back, problems."""

import base64
import json
import struct
from typing import Any

import httpx
import safetensors.numpy
import safetensors.torch
import torch

FILE, JSON, PROBLEM = (
    "application/vnd.safetensors", "application/json", "application/problem+json",
)  # fmt: skip
DTYPES = {
    "float32": torch.float32, "float64": torch.float64, "float16": torch.float16,
    "bfloat16": torch.bfloat16, "int8": torch.int8, "uint8": torch.uint8, "int32": torch.int32,
    "int64": torch.int64,
}  # fmt: skip
FLOATS = tuple(name for name, dtype in DTYPES.items() if dtype.is_floating_point)
Tensors = dict[str, torch.Tensor]


async def post(
    http: httpx.AsyncClient, layer: str, body: object, accept: str = FILE, sent: str = ""
) -> httpx.Response:
    """The body is a file, or else goes as JSON."""
    return await post_to(http, f"layers/{layer}", body, accept, sent)


async def post_to(
    http: httpx.AsyncClient, path: str, body: object, accept: str = FILE, sent: str = ""
) -> httpx.Response:
    """To any operation."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = sent or (FILE if isinstance(body, bytes) else JSON)
    headers = {"Content-Type": kind, "Accept": accept}
    return await http.post(f"/v1/{path}", content=content, headers=headers)


def saved_by_numpy(tensors: Tensors, **request: object) -> bytes:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return safetensors.numpy.save(arrays, {"request": json.dumps(request)})


def saved(tensors: Tensors, **request: object) -> bytes:
    return safetensors.torch.save(tensors, {"request": json.dumps(request)})


def opened(response: httpx.Response) -> tuple[Tensors, dict[str, Any]]:
    """The answer's tensors, and the rest."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == FILE
    content = response.content
    assert int(response.headers["Content-Length"]) == len(content)
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert header["__metadata__"].keys() == {"response"}
    return safetensors.torch.load(content), json.loads(header["__metadata__"]["response"])


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), raw.numpy().tobytes()


def packed(tensor: torch.Tensor) -> dict[str, object]:
    """Form 3 of a tensor in JSON."""
    dtype, shape, raw = bits(tensor)
    name = str(dtype).removeprefix("torch.")
    return {"shape": list(shape), "dtype": name, "base64": base64.b64encode(raw).decode()}


def problem(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    assert response.headers["Content-Type"] == PROBLEM
    assert len(response.content) <= 8192
    assert "Traceback" not in response.text
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    assert found.keys() >= {"type", "title", "detail", "request_id"}
    assert response.status_code != 422 or found["errors"]
    return found
