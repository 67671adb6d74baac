"""Small requests that ask for much: each is refused, for little time and memory of the server's."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests._serving import Serving, started
from tests._soak import SOAK, rounds

MAX_BYTES = 1024
MAX_CPU_S = 0.05 if SOAK else 0.5
"""Of processor time, which others on the machine make longer, if not by much."""
MAX_GROWTH_BYTES = 32 << 20
JSON = {"Content-Type": "application/json"}
FILE = {"Content-Type": "application/vnd.safetensors"}
LENGTH = "Inference-Header-Content-Length"
X1, X2, X3 = [[[1, 2]]], [[[[1, 2], [3, 4]]]], [[[[[1, 2], [3, 4]]]]]
BIG = 2**31 - 1


class Bomb(NamedTuple):
    path: str
    content: bytes
    headers: dict[str, str]


def v1(layer: str, body: dict[str, Any] | str | bytes, shape: str = "") -> Bomb:
    text = body if isinstance(body, bytes | str) else json.dumps(body)
    content = text.encode() if isinstance(text, str) else text
    return Bomb(f"/v1/layers/{layer}{shape}", content, JSON)


def v2(layer: str, content: bytes | str | dict[str, Any], **headers: str) -> Bomb:
    text = json.dumps(content) if isinstance(content, dict) else content
    raw = text.encode() if isinstance(text, str) else text
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Bomb(f"/v2/models/{layer}/infer", raw, named)


def packed(layer: str, content: bytes, encoding: str = "gzip") -> Bomb:
    """As much of the content, from its start, as fits into a bomb."""
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    return v2(layer, compress(content, 9), Content_Encoding=encoding)


def file(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Bomb:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return Bomb("/v1/layers/relu", size.to_bytes(8, "little") + text + data, FILE)


def tensor(**changes: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "input", "shape": [2], "datatype": "FP32", "data": [1, 2]} | changes]
    }


def entry(shape: list[int], end: int) -> dict[str, Any]:
    return {"input": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


def empty(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"shape": shape, "dtype": dtype, "base64": ""}


ROWS = b'{"inputs":[{"name":"input","shape":[%d,1],"datatype":"FP32","data":[%s[1,2]]}]}'
BOMBS: dict[str, Bomb] = {
    "output-1e5-squared": v1("adaptive_avg_pool2d", {"input": X2, "output_size": [10**5, 10**5]}),
    "output-4096-cubed": v1("adaptive_max_pool3d", {"input": X3, "output_size": 4096}),
    "output-2^31": v1("adaptive_avg_pool1d", {"input": X1, "output_size": BIG}),
    "output-2^63": v1("adaptive_avg_pool1d", {"input": X1, "output_size": 2**63}),
    "output-400-digits": v1("adaptive_avg_pool1d", {"input": X1, "output_size": 10**400}),
    "kernel-2^62": v1("max_pool1d", {"input": X1, "kernel_size": 2**62, "padding": 2**61}),
    "kernel-2^31": v1("max_pool3d", {"input": X3, "kernel_size": BIG - 1, "padding": 2**30 - 1}),
    "kernel-over-the-input": v1("avg_pool2d", {"input": X2, "kernel_size": 4096}),
    "kernel-in-padding": v1(
        "max_pool2d", {"input": X2, "kernel_size": 4096, "padding": [[4095, 4095], [4095, 4095]]}
    ),
    "kernel-in-3d-padding": v1(
        "avg_pool3d",
        {"input": X3, "kernel_size": 512, "padding": [[511, 511]] * 3, "convention": "onnx"},
    ),
    "dilation": v1("lp_pool2d", {"input": X2, "norm_type": 2, "kernel_size": 2, "dilation": 4097}),
    "lp-of-1e308": v1("lp_pool1d", {"input": X1, "norm_type": 1e308, "kernel_size": 4096,
                                    "padding": [[4095, 4095]], "convention": "onnx"}),
    "conv-padding": v1("conv2d", {"input": X2, "weight": [[[[1]]]], "padding": 4096}),
    "conv-padding-3d": v1("conv3d", {"input": X3, "weight": [[[[[1]]]]], "padding": 4096}),
    "conv-groups": v1("conv1d", {"input": X1, "weight": [[[1]]], "groups": 2**62}),
    "unpool-output": v1("max_unpool2d", {"input": X2, "indices": [[[[0, 1], [2, 3]]]],
                                         "kernel_size": 2, "output_size": [10**5, 10**5]}),
    "unpool-stride": v1("max_unpool3d", {"input": X3, "indices": [[[[[0, 1], [2, 3]]]]],
                                         "kernel_size": 4096, "stride": 4096}),
    "unpool-index": v1("max_unpool1d", {"input": X1, "indices": [[[0, 2**62]]], "kernel_size": 2}),
    "groups": v1("group_norm", {"input": X2, "num_groups": 2**62}),
    "normalized-shape": v1("layer_norm", {"input": X2, "normalized_shape": [BIG] * 8}),
    "axis": v1("layer_norm", {"input": X2, "axis": -(2**63)}),
    "replicas": v1("sync_batch_norm", {"inputs": [[[1]]] * 99, "training": True}),
    "momentum": v1("batch_norm2d", '{"input": [[[[1]]]], "training": true, "momentum": 1e999}'),
    "flat-shape": v1("relu", {"input": {"shape": [BIG, BIG], "data": []}}),
    "flat-empty-shape": v1("relu", {"input": {"shape": [0, BIG, BIG, BIG], "data": []}}),
    "empty-axis-long": v1("max_pool2d", {"input": empty(0, 1, BIG, 1), "kernel_size": [3, 1],
                                         "stride": 1, "padding": [[1, 0], [0, 0]]}),
    "empty-axis-dilated": v1("avg_pool1d", {"input": empty(0, 1, 5 * 10**7), "kernel_size": 2,
                                            "dilation": 2}),
    "empty-rows": v1("relu", {"input": empty(2**20, 2**20, 0)}),
    "empty-adaptive": v1("adaptive_avg_pool3d", {"input": empty(0, 1, 1, 1, 1),
                                                 "output_size": BIG}),
    "empty-by-its-size": v1("adaptive_max_pool3d", {"input": X3, "output_size": [0, BIG, BIG]}),
    "empty-unpool": v1("max_unpool3d", {"input": empty(0, 1, 1, 1, 1), "output_size": BIG,
                                        "indices": empty(0, 1, 1, 1, 1, dtype="int64"),
                                        "kernel_size": 1, "index_space": "default"}),
    "empty-tie": v1("max_pool3d", {"input": empty(0, 1, 6000, 6000, 6000), "kernel_size": 3,
                                   "stride": 1, "padding": 1, "tie": "split"}),
    "flat-rank": v1("relu", {"input": {"shape": [1] * 200, "data": [1]}}),
    "base64-shape": v1(
        "relu", {"input": {"shape": [2**62, 2**62], "dtype": "float32", "base64": "AAAA"}}
    ),
    "depth": v1("relu", b'{"input": %s1%s}' % (b"[" * 450, b"]" * 450)),
    "depth-unclosed": v1("relu", b'{"input": ' + b"[" * 1000),
    "depth-of-an-option": v1("relu", b'{"layout": %s1%s}' % (b'{"a":' * 150, b"}" * 150)),
    "depth-of-objects": v1("relu", b'{"a":' * 200),
    "digits": v1("relu", b'{"input": [%s]}' % (b"9" * 1000)),
    "digits-of-an-option": v1(
        "max_pool1d", b'{"input": [[[1]]], "kernel_size": %s}' % (b"9" * 900)
    ),
    "exponent": v1("relu", b'{"input": [1e%s]}' % (b"9" * 900)),
    "many-fields": v1("max_pool2d", {f"f{i}": 0 for i in range(95)}),
    "many-near-fields": v1("max_pool2d", {f"kernel_siz{i}": 0 for i in range(45)}),
    "same-field": v1("relu", b"{%s}" % b",".join([b'"input":[1]'] * 80)),
    "long-name": v1("relu", {"x" * 900: 1}),
    "long-dtype": v1("relu", {"input": [1], "dtype": "float" * 150}),
    "long-escapes": v1("relu", b'{"%s": 1}' % (b"\\u0001" * 150)),
    "ragged": v1("relu", b'{"input": [%s[]]}' % (b"[1]," * 240)),
    "shape-rank": v1("relu", {"input_shape": [1] * 300}, "/shape"),
    "shape-2^62": v1("relu", {"input_shape": [2**62] * 8}, "/shape"),
    "shape-replicas": v1("sync_batch_norm", {"input_shapes": [[1]] * 190, "training": 1}, "/shape"),
    "shape-padding": v1("max_pool3d", {"input_shape": [1, 1, BIG, BIG, BIG], "kernel_size": 3,
                                       "padding": 4097}, "/shape"),
    "file-header-length": file(b"{}", length=2**63),
    "file-shape": file(entry([BIG] * 8, 4), bytes(4)),
    "file-empty-shape": file(entry([0, BIG, BIG, BIG], 0)),
    "file-depth": file(b"[" * 1000),
    "file-digits": file(b'{"input": %s}' % (b"9" * 1000)),
    "file-request": file({"__metadata__": {"request": "[" * 900}}),
    "v2-shape": v2("relu", tensor(shape=[BIG] * 8)),
    "v2-binary-size": v2(
        "relu", tensor(shape=[BIG, BIG], data=None, parameters={"binary_data_size": 2**62})
    ),
    "v2-inputs": v2("relu", b'{"inputs": [%s{}]}' % (b"{}," * 300)),
    "v2-outputs": v2("relu", tensor() | {"outputs": [{"name": "output"}] * 40}),
    "v2-deep-text": v2("max_pool1d", tensor() | {"parameters": {"kernel_size": "[" * 800}}),
    "v2-long-digits": v2("max_pool1d", tensor() | {"parameters": {"kernel_size": "9" * 800}}),
    "v2-header-length": v2("relu", b"{}", Inference_Header_Content_Length="9" * 18),
    "v2-quotes": v2("relu", b'NaN"' + b'\\"' * 500),
    "gzip-spaces": packed("relu", b" " * 900_000),
    "gzip-depth": packed("relu", b"[" * 900_000),
    "gzip-digits": packed("relu", b'{"id":%s}' % (b"9" * 900_000)),
    "gzip-fields": packed("relu", b"{%s}" % (b'"a":0,' * 100_000 + b'"a":0')),
    "gzip-inputs": packed("relu", b'{"inputs":[%s{}]}' % (b"{}," * 200_000)),
    "gzip-nan": packed("relu", b'{"inputs":[%sNaN]}' % (b"NaN," * 150_000)),
    "gzip-rows": packed("relu", ROWS % (150_000, b"[1]," * 149_999)),
    "gzip-nan-rows": packed("relu", ROWS % (90_000, b"[NaN]," * 89_999)),
    "gzip-strings": packed("relu", b'{"inputs":[%s0]}' % (b'"",' * 200_000)),
    "gzip-zeros": packed("relu", b"\0" * 900_000),
    "deflate-spaces": packed("relu", b" " * 900_000, "deflate"),
    "gzip-of-gzip": packed("relu", gzip.compress(gzip.compress(b" " * 60_000_000))),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[httpx.Client, Serving]]:
    with (
        started(settings={"DRAIN_DELAY_MS": "0"}) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=120) as client,
    ):
        for bomb in (v1("relu", {"input": [1]}), v2("relu", tensor())):
            for _ in range(20):
                sent = client.post(bomb.path, content=bomb.content, headers=bomb.headers)
                assert sent.status_code == 200
        yield client, service
        assert service.stop()[0] == 0


DUDS = {
    "rows-of-nothing": v1("relu", {"input": empty(33_000_000, 0)}),
    "same-padding-dilated": v1(
        "max_pool1d",
        {"input_shape": [1, 1, 2**20], "kernel_size": 4096, "dilation": 4096, "stride": 1,
         "padding": "same"},
        shape="/shape",
    ),
}  # fmt: skip


def test_there_are_many_and_they_are_small() -> None:
    assert len(BOMBS) >= 60
    assert {name: len(b.content) for name, b in BOMBS.items() if len(b.content) > MAX_BYTES} == {}


@pytest.mark.parametrize("name", BOMBS)
def test_each_is_refused_cheaply(server: tuple[httpx.Client, Serving], name: str) -> None:
    (client, service), bomb, repeats = server, BOMBS[name], rounds(4, 40)
    before_s, before_bytes = service.cpu_s, service.peak_rss_bytes
    for _ in range(repeats):
        answer = client.post(bomb.path, content=bomb.content, headers=bomb.headers)
        assert 400 <= answer.status_code < 500, answer.text
        assert len(answer.content) <= 8192
    spent_s = (service.cpu_s - before_s) / repeats
    assert spent_s <= MAX_CPU_S, f"{spent_s * 1e3:.0f} ms"
    assert service.peak_rss_bytes - before_bytes <= MAX_GROWTH_BYTES


@pytest.mark.parametrize("name", DUDS)
def test_what_only_looks_large_is_answered_cheaply(
    server: tuple[httpx.Client, Serving], name: str
) -> None:
    (client, service), dud = server, DUDS[name]
    before_s, before_bytes = service.cpu_s, service.peak_rss_bytes
    answer = client.post(dud.path, content=dud.content, headers=dud.headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) <= 8192
    assert service.cpu_s - before_s <= MAX_CPU_S
    assert service.peak_rss_bytes - before_bytes <= MAX_GROWTH_BYTES


def test_together_they_leave_no_memory_behind(
    server: tuple[httpx.Client, Serving],
) -> None:
    client, service = server
    before = service.rss_bytes
    for _ in range(rounds(2, 40)):
        for bomb in BOMBS.values():
            client.post(bomb.path, content=bomb.content, headers=bomb.headers)
    assert service.rss_bytes - before <= MAX_GROWTH_BYTES
