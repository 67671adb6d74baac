"""`/v2` byte by byte: frames, compression, names, and what hostile clients send."""

import gzip
import itertools
import json
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from app.codecs._arrays import as_payload
from app.codecs.open_inference import Inference, decode, encode
from app.errors import InvalidRequest, MalformedBody
from tests._soak import SOAK

pytestmark = pytest.mark.anyio
RELU = "/v2/models/relu/infer"
X = np.arange(-2, 2, dtype="<f4")
LENGTH = "Inference-Header-Content-Length"


def tensor(**changes: Any) -> dict[str, Any]:
    """The four numbers of X, as JSON unless the changes say otherwise."""
    whole = {"name": "input", "shape": [4], "datatype": "FP32", "data": X.tolist(), **changes}
    return {key: value for key, value in whole.items() if value is not None}


VALID = json.dumps({"inputs": [tensor()]}).encode()


def binary(size: object = 16, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


def frame(message: dict[str, Any], data: bytes = b"") -> tuple[bytes, dict[str, str]]:
    text = json.dumps(message).encode()
    return text + data, {LENGTH: str(len(text))}


async def infer(
    client: httpx.AsyncClient, message: dict[str, Any], data: bytes = b"", **more: str
) -> httpx.Response:
    content, headers = frame(message, data)
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return await client.post(RELU, content=content, headers=headers)


async def test_no_content_type_is_needed_and_the_answer_is_json(client: httpx.AsyncClient) -> None:
    content = json.dumps({"id": "7", "inputs": [tensor()], "unknown": {"deep": [1]}}).encode()
    response = await client.post(RELU, content=content)
    assert LENGTH not in response.headers
    assert response.json() == {
        "model_name": "relu",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [4], "data": [0, 0, 0, 1]}],
    }


async def test_blobs_follow_in_the_order_of_the_inputs(client: httpx.AsyncClient) -> None:
    weight = np.array([2, 3, 4, 5], "<f4")
    message = {
        "inputs": [binary(shape=[1, 4]), binary(name="weight")],
        "outputs": [
            {"name": "grad_weight", "parameters": {"binary_data": False}},
            {"name": "output", "parameters": {"binary_data": True}},
        ],
        "parameters": {"axis": -1, "binary_data_output": True, "timeout": 5, "triton_x": 1},
    }
    content, headers = frame(message, X.tobytes() + weight.tobytes())
    url = "/v2/models/layer_norm/versions/1/infer"
    response = await client.post(url, content=content, headers=headers)
    length = int(response.headers[LENGTH])
    answer = json.loads(response.content[:length])
    assert [output["name"] for output in answer["outputs"]] == ["grad_weight", "output"]
    assert len(answer["outputs"][0]["data"]) == 4
    output = np.frombuffer(response.content[length:], "<f4")
    normal = (X - X.mean()) / np.sqrt(X.var() + 1e-5)
    np.testing.assert_allclose(output, normal * weight, rtol=1e-5)


async def test_a_header_of_length_0_means_that_the_body_is_the_input(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post(RELU, content=X.tobytes(), headers={LENGTH: "0"})
    length = int(response.headers[LENGTH])
    assert np.frombuffer(response.content[length:], "<f4").tolist() == [0, 0, 0, 1]


async def test_bare_nan_and_infinity_are_read(client: httpx.AsyncClient) -> None:
    content = (
        b'{"id": "NaN \\" NaN", "inputs": [{"name": "input", "shape": [3], "datatype": "FP64", '
        b'"data": [NaN, -Infinity, Infinity]}]}'
    )
    answer = (await client.post(RELU, content=content)).json()
    assert answer["id"] == 'NaN " NaN'
    assert answer["outputs"][0]["data"] == ["NaN", 0.0, "Infinity"]


@pytest.mark.parametrize("value", ["2,1", "[2, 1]", [2, 1]])
async def test_lists_travel_as_text_or_as_lists(client: httpx.AsyncClient, value: object) -> None:
    message = {
        "inputs": [tensor(shape=[1, 1, 2, 2])],
        "parameters": {"kernel_size": value, "padding": "valid"},
    }
    answer = (await client.post("/v2/models/max_pool2d/infer", json=message)).json()
    assert answer["outputs"][0]["shape"] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("message", "data", "status", "said"),
    [
        ({"inputs": [binary()]}, b"", 422, "binary_data_size of 16"),
        ({"inputs": [binary()]}, X.tobytes() + b"\0", 400, "left over after the inputs: 1"),
        ({"inputs": [binary(15)]}, X.tobytes(), 422, "binary_data_size of 16"),
        ({"inputs": [binary(2**70)]}, X.tobytes(), 422, "binary_data_size of 16"),
        ({"inputs": [binary(-1)]}, X.tobytes(), 422, "binary_data_size of 16"),
        ({"inputs": [binary("16")]}, X.tobytes(), 422, "number of bytes; got a string"),
        ({"inputs": [binary(True)]}, X.tobytes(), 422, "number of bytes; got a boolean"),
        ({"inputs": [binary(16.5)]}, X.tobytes(), 422, "binary_data_size of 16"),
        ({"inputs": [binary(shape=[2**31 - 1, 2**31 - 1])]}, X.tobytes(), 422, "bytes"),
        ({"inputs": [binary(shape=[-1])]}, X.tobytes(), 422, "integers from 0"),
        ({"inputs": [binary(shape=[2**40])]}, X.tobytes(), 422, "integers from 0"),
        ({"inputs": [binary(shape=[1] * 9)]}, X.tobytes(), 422, "at most 8 axes"),
        ({"inputs": [binary(shape="4")]}, X.tobytes(), 422, "integers from 0"),
        ({"inputs": [binary(datatype="FP8")]}, X.tobytes(), 422, "FP32, FP64"),
        ({"inputs": [binary(datatype="BOOL")]}, X.tobytes(), 422, "got BOOL"),
        ({"inputs": [{**binary(), "data": [1]}]}, X.tobytes(), 422, "exactly one"),
        ({"inputs": [tensor(data=None)]}, b"", 422, "exactly one"),
        ({"inputs": [tensor(data=[1, 2])]}, b"", 422, "needs a flat list of 4 numbers"),
        ({"inputs": [tensor(data=[1, True, 2, 3])]}, b"", 422, "boolean"),
        ({"inputs": [tensor(data=[1e300, 1, 2, 3])]}, b"", 422, "out of range for float32"),
        ({"inputs": [tensor(data=[[-2, -1], [0, 1]])]}, b"", 422, "expected shape [4]; got [2, 2]"),
        ({"inputs": [tensor(shape=[2, 2], data=[[-2], [-1, 0, 1]])]}, b"", 422, "data"),
        ({"inputs": [tensor(shape=[2, 2], data=[1, 2, [3, 4]])]}, b"", 422, "entries"),
        ({"inputs": [tensor(data=[1, 2, 3, [4]])]}, b"", 422, "either numbers or rows"),
        ({"inputs": [tensor(data=[1, [], 3, [4, 5]])]}, b"", 422, "either numbers or rows"),
        ({"inputs": [tensor(data=[[1], 2, 3, 4])]}, b"", 422, "data"),
        ({"inputs": [{**binary(0, shape=[0]), "data": None},
                     tensor(name="b", data=[1, 2, 3, [4]])]},
         b"", 422, "inputs/1/data: expected either numbers or rows"),
        ({"inputs": [tensor(shape=[0, *[2**31 - 1] * 3], data=[])]},
         b"", 422, "product above 2^48"),
        ({"inputs": [tensor(), tensor()]}, b"", 422, "duplicate name "),
        ({"inputs": [tensor()] * 999}, b"", 422, "at most"),
        ({"inputs": []}, b"", 422, "input"),
        ({"inputs": {}}, b"", 422, "list of tensors"),
        ({"inputs": [1]}, b"", 422, "object"),
        ({}, b"", 422, "list of tensors"),
        ({"inputs": [tensor(name=1)]}, b"", 422, "string"),
        ({"inputs": [tensor(name="indices")]}, b"", 422, "no such input"),
        ({"inputs": [tensor()], "outputs": [{"name": "x" * 900}]}, b"", 422, "no such output"),
        ({"inputs": [tensor()], "outputs": [{"name": "output"}] * 2}, b"", 422, "duplicate name "),
        ({"inputs": [tensor()], "parameters": {"alpha": 1}}, b"", 422, "unknown field"),
        ({"inputs": [tensor()], "parameters": {"alpha": "[" * 5000}}, b"", 422, "unknown field"),
        ({"inputs": [tensor()], "parameters": {"layout": "1," * 512 + "1"}}, b"", 422,
         "layout: expected at most 1024 characters; got 1025"),
        ({"inputs": [tensor()], "parameters": {"layout": "[" * 1024}}, b"", 422, "layout: must be"),
        ({"inputs": [tensor()], "parameters": {"batched": str(2**63)}},
         b"", 422, "batched: must be"),
        ({"inputs": [tensor()], "parameters": []}, b"", 422, "object"),
        ({"inputs": [tensor()], "id": 7}, b"", 422, "string"),
        ({str(number): 0 for number in range(300)}, b"", 422, "at most 256 fields"),
        ({"inputs": [tensor()], "i\0d": 7}, b"", 422, "NUL"),
        ({"inputs": [{**tensor(), "name\0": 1}]}, b"", 422, "NUL"),
        ({"inputs": [tensor()], "parameters": {"\0": 1}}, b"", 422, "NUL"),
        ({"inputs": [tensor()], "outputs": {}}, b"", 422, "list of tensors"),
        ({"inputs": [tensor(data=None, parameters={"shared_memory_region": "r",
                                                   "shared_memory_byte_size": 16})]},
         b"", 422, "shared_memory is not supported"),
        ({"inputs": [tensor()],
          "outputs": [{"name": "output", "parameters": {"shared_memory_region": "r"}}]},
         b"", 422, "outputs/0/parameters/shared_memory_region: shared_memory is not supported"),
        ({"inputs": [tensor()],
          "outputs": [{"name": "output", "parameters": {"classification": 2}}]},
         b"", 422, "classification is not supported"),
        ({"inputs": [tensor()], "outputs": [{"name": "output", "parameters": {"binary_data": 1}}]},
         b"", 422, "binary_data: expected true or false; got a number"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": "true"}},
         b"", 422, "true or false; got a string"),
        ({"inputs": [tensor(datatype="BF16")]},
         b"", 422, "output: BF16 is only available as binary"),
        ({"inputs": [tensor(datatype="BF16")], "parameters": {"binary_data_output": True},
          "outputs": [{"name": "output", "parameters": {"binary_data": False}}]},
         b"", 422, '"binary_data": true'),
    ],
)  # fmt: skip
async def test_wrong_requests_say_what_is_wrong(
    client: httpx.AsyncClient, message: dict[str, Any], data: bytes, status: int, said: str
) -> None:
    response = await infer(client, message, data)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert said in response.json()["error"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("output_size", "9" * 1000, "output_size: must be a valid integer"),
        ("output_size", f"1,2,{2**63}", "output_size/2: must be a valid integer"),
        ("output_size", f"[{-(2**63) - 1}]", "output_size/0: must be a valid integer"),
        ("output_size", str(2**63 - 1), "the output [1, 1, "),
        ("kernel_size", "1" * 19, "expected at most 4096"),
    ],
)
async def test_integers_in_text_have_64_bits(
    client: httpx.AsyncClient, option: str, value: str, said: str
) -> None:
    one = [1] * 5
    message = {
        "inputs": [
            tensor(shape=one, data=[1]),
            tensor(name="indices", shape=one, datatype="INT64", data=[0]),
        ],
        "parameters": {"kernel_size": 1, "index_space": "default", option: value},
    }
    response = await client.post("/v2/models/max_unpool3d/infer", json=message)
    assert response.status_code == 422, response.text
    assert said in response.json()["error"]


@pytest.mark.parametrize("left_out", [{"outputs": []}, {"outputs": None}, {"id": None}])
async def test_null_is_left_out_and_no_outputs_are_all(
    client: httpx.AsyncClient, left_out: dict[str, Any]
) -> None:
    answer = (await infer(client, {"inputs": [tensor()], "parameters": None, **left_out})).json()
    assert answer.keys() == {"model_name", "model_version", "outputs"}
    assert [output["name"] for output in answer["outputs"]] == ["output"]


async def test_brackets_in_names_and_options_hide_no_list(client: httpx.AsyncClient) -> None:
    message = {"id": "[", "inputs": [tensor()], "outputs": [{"name": "output"}], "more": [[1]]}
    assert (await infer(client, message)).json()["outputs"][0]["data"] == [0, 0, 0, 1]


async def test_integers_beside_bf16_may_be_json(client: httpx.AsyncClient) -> None:
    message = {
        "inputs": [tensor(shape=[1, 1, 4], datatype="BF16")],
        "parameters": {"kernel_size": 2},
        "outputs": [{"name": "indices"}, {"name": "output", "parameters": {"binary_data": True}}],
    }
    response = await client.post("/v2/models/max_pool1d/infer", json=message)
    length = int(response.headers[LENGTH])
    assert json.loads(response.content[:length])["outputs"][0]["data"] == [1, 3]
    assert response.content[length:] == b"\x80\xbf\x80\x3f"


async def test_the_tensors_of_a_list_are_numbered(client: httpx.AsyncClient) -> None:
    message = {"inputs": [tensor(name="inputs", shape=[4, 1])], "parameters": {"training": True}}
    response = await client.post("/v2/models/sync_batch_norm/infer", json=message)
    assert response.status_code == 422
    assert response.json()["error"] == (
        "inputs: expected a list of tensors named inputs.0, inputs.1, ...; got one tensor"
    )


async def test_nested_numbers_have_the_tensors_shape(client: httpx.AsyncClient) -> None:
    content = (
        b'{"inputs": [{"name": "input", "shape": [2, 2], "datatype": "FP32", '
        b'"data": [[NaN, 1], [-1, Infinity]]}]}'
    )
    answer = (await client.post(RELU, content=content)).json()
    assert answer["outputs"][0]["data"] == ["NaN", 1.0, 0.0, "Infinity"]


def test_unclosed_strings_are_passed_once() -> None:
    """A search from each quote on would take hours."""
    with pytest.raises(MalformedBody):
        decode(b'NaN"' + b'\\"' * 2_000_000, None, max_rank=8, max_tensors=4)


@pytest.mark.parametrize("where", [b'{"id":"%s","inputs":[NaN]}', b'{"id":"%s","inputs":[%s]}'])
def test_a_long_string_stops_no_other_thread(where: bytes) -> None:
    body = where.replace(b"[%s]", b"[" + b"9" * 30 + b"]") % (b"a" * 12_000_000)
    assert min(longest_pause_s(body) for _ in range(3)) < (0.15 if SOAK else 1.0)


def longest_pause_s(body: bytes) -> float:
    """For how long another thread cannot run while the body is read.

    In processor time, which others on the machine do not take, but for the soak.
    """
    clock = time.perf_counter if SOAK else time.process_time
    times, done = [clock()], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            times.append(clock())

    with ThreadPoolExecutor() as pool:
        watching = pool.submit(watch)
        with pytest.raises(InvalidRequest):
            decode(body, None, max_rank=8, max_tensors=4)
        done.set()
        watching.result()
    times.append(clock())
    return max(after - before for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("length", ["9999", "-1", "1e2", "", "1" * 30])
async def test_lying_header_lengths_are_400(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post(RELU, content=b"{}", headers={LENGTH: length})
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("gzip", gzip.compress(VALID, mtime=0), 200),
        ("deflate", zlib.compress(VALID), 200),
        ("gzip", gzip.compress(b" " * (65 << 20), mtime=0), 413),
        ("deflate", zlib.compress(b" " * (65 << 20)), 413),
        ("gzip", gzip.compress(VALID + b" " * 50_000, mtime=0), 200),
        ("gzip", gzip.compress(VALID + b" " * 99_000, mtime=0), 413),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], 400),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400),
        ("gzip", b"{}", 400),
        ("br", b"{}", 415),
        ("gzip, gzip", b"{}", 415),
    ],
)
async def test_compressed_bodies_are_bounded_by_what_comes_out(
    client: httpx.AsyncClient, encoding: str, content: bytes, status: int
) -> None:
    response = await client.post(RELU, content=content, headers={"Content-Encoding": encoding})
    assert response.status_code == status, response.text
    assert ("error" in response.json()) == (status != 200)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/relu/versions/2", 404),
        ("POST", "/v2/repository/index", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", RELU, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/health/odd", 404),
    ],
)
async def test_other_paths_are_errors_of_the_protocol(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert ("Allow" in response.headers) == (status == 405)
    assert isinstance(response.json()["error"], str)
    assert response.headers["X-Request-ID"]


async def test_failures_are_counted(client: httpx.AsyncClient) -> None:
    async def count(part: str) -> int:
        stats = (await client.get("/v2/models/stats")).json()["model_stats"]
        relu = next(card for card in stats if card["name"] == "relu")
        found: int = relu["inference_stats"][part]["count"]
        return found

    await infer(client, {"inputs": [tensor()]})
    await infer(client, {"inputs": []})
    assert (await count("success"), await count("fail"), await count("queue")) == (1, 1, 1)


async def test_tensors_behind_odd_bytes_are_moved_to_where_torch_wants_them() -> None:
    message = {
        "inputs": [
            binary(3, name="a", shape=[3], datatype="INT8"),
            binary(8, name="b", shape=[2]),
        ]
    }
    content, headers = frame(message, b"abc" + np.array([1, 2], "<f4").tobytes())
    inference = decode(content, int(headers[LENGTH]), max_rank=8, max_tensors=4)
    numbers = np.frombuffer(inference.inputs["b"].data, "<f4")
    assert numbers.flags.aligned
    assert numbers.tolist() == [1, 2]


def test_printed_numbers_are_not_copied_into_one_text() -> None:
    numbers = np.random.default_rng(0).random(400_000, np.float32)
    payload = as_payload(numbers, "float32", (2, 200_000))
    inference = Inference(None, {}, None, {}, binary_default=False)
    pieces, length = encode("relu", inference, {"output": payload})
    assert length is None
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 4
    [output] = json.loads(b"".join(pieces))["outputs"]
    assert output["shape"] == [2, 200_000]
    assert np.array_equal(np.array(output["data"], np.float32), numbers)
