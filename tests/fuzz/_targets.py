"""What the fuzzers feed: one function a decoder, from bytes to nothing, under the same rules.

A `LaminaError` is an answer; any other exception is a finding. What is accepted must keep its
promises: shapes and bytes agree, ranks and sizes stay within their limits, text is JSON.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from app.api.accept import accepted
from app.api.bodies import media_type
from app.api.problems import refusal
from app.api.v2._face import OpenInference
from app.api.v2._mapping import check_outputs, fields_of, outputs_of
from app.codecs import CODECS, JSON, open_inference, safetensors
from app.codecs import json as json_codec
from app.codecs.inflate import WINDOW_BITS, inflate
from app.compute import Engine
from app.errors import LaminaError
from app.layers import LAYERS, tensor_fields
from app.operations import COMPUTE, LAYER_OPERATIONS, Context
from app.scheduling import finished
from app.schemas.tensors import DTYPES, TensorField, TensorPayload
from app.settings import Settings
from tests.fuzz._endpoints import ENDPOINTS, LIMITS, Endpoint, answered

MAX_RANK, MAX_LIST, MAX_TENSORS = 8, 3, 8
MAX_INFLATED_BYTES = 1 << 20
MAX_RUN_MS = 2.0
MAX_EXPLAINED_MS = 50.0
"""Requests estimated above this are planned and not run, or the fuzzer would only wait."""
MAX_CHECK_MS = 20
"""The cost limit of checks."""
WHOLE_BODY = 0xFFFF
"""Stands for a request without `Inference-Header-Content-Length`."""
FIELDS = {
    "input": TensorField(),
    "indices": TensorField(dtype="int64"),
    "inputs": TensorField(many=True),
}
NAMES = tuple(LAYERS)
CHECK = next(operation for operation in LAYER_OPERATIONS if operation.name == "check")
_engine = Engine("cpu", Settings().limits)
_context = Context(_engine, LAYERS, refusal)
_hasty = Context(Engine("cpu", Settings(max_cost_ms=MAX_CHECK_MS).limits), LAYERS, refusal)
_checks = {name: CHECK.reader(_hasty, spec) for name, spec in LAYERS.items()}
_v2_face = OpenInference(LAYERS["relu"], COMPUTE.reader(_context, LAYERS["relu"]), _engine.limits)


def read_json(data: bytes) -> None:
    """The JSON decoder: what it takes is JSON to Python's own parser too."""
    fields = json_codec.decode(data, FIELDS, max_rank=MAX_RANK, max_list=MAX_LIST)
    _check_payloads(fields.values())
    assert json.loads(data, parse_constant=_no_constant).keys() == fields.keys()
    tensors = {name: v for name, v in fields.items() if isinstance(v, TensorPayload)}
    if tensors:
        tensors["dtype"] = fields.get("dtype", "float32")  # type: ignore[assignment]
        text = b"".join(json_codec.encode(tensors, encoding="flat"))
        again = json_codec.decode(text, FIELDS, max_rank=MAX_RANK, max_list=MAX_LIST)
        assert b"".join(json_codec.encode(again, encoding="flat")) == text


def read_safetensors(data: bytes) -> None:
    """The safetensors decoder; for a text the length is put before its first line."""
    if data[:1] == b"{":
        header, _, elements = data.partition(b"\n")
        data = len(header).to_bytes(8, "little") + header + elements
    for body in (data, bytearray(data)):
        fields = safetensors.decode(body, FIELDS, max_rank=MAX_RANK, max_list=MAX_LIST)
        _check_payloads(fields.values())


def read_open_inference(data: bytes) -> None:
    """The `/v2` decoder; the first two bytes are the length of the JSON."""
    length: int | None = int.from_bytes(data[:2], "little")
    if length == WHOLE_BODY:
        length = None
    inference = open_inference.decode(data[2:], length, max_rank=MAX_RANK, max_tensors=MAX_TENSORS)
    _check_payloads(inference.inputs.values())
    assert len(inference.inputs) <= MAX_TENSORS
    pieces, json_bytes = open_inference.encode("relu", inference, inference.inputs)
    answer = json.loads(b"".join(pieces)[:json_bytes], parse_constant=_no_constant)
    assert [entry["name"] for entry in answer["outputs"]] == list(inference.inputs)


def read_compressed(data: bytes) -> None:
    """Inflating; the first byte chooses the encoding."""
    encoding = sorted(WINDOW_BITS)[data[0] % 2] if data else b"gzip"
    assert len(inflate(data[1:], encoding, MAX_INFLATED_BYTES)) <= MAX_INFLATED_BYTES


def read_headers(data: bytes) -> None:
    """The headers of which the service reads more than their presence, one a line."""
    names = (
        b"accept",
        b"content-type",
        b"content-encoding",
        b"inference-header-content-length",
    )
    headers = dict(zip(names, data.split(b"\n"), strict=False))
    for parse in (accepted, media_type, _v2_face.wire):
        try:
            parse(headers)
        except LaminaError:
            continue


def answer_request(data: bytes) -> None:
    """A request whole, from its bytes to its answer's; two bytes choose the layer and protocol."""
    if len(data) < 2:
        return
    spec = LAYERS[NAMES[data[0] % len(NAMES)]]
    limits, tensors, body = _engine.limits, tensor_fields(spec), bytearray(data[2:])
    protocol = (*CODECS, "")[data[1] % 3]
    inference = None
    if protocol:
        fields = CODECS[protocol].decode(
            body, tensors, max_rank=MAX_RANK, max_list=limits.requests.max_replicas
        )
    else:
        inference = open_inference.decode(body, None, max_rank=MAX_RANK, max_tensors=MAX_TENSORS)
        fields = fields_of(spec, tensors, inference, limits.requests.max_replicas)
    task = COMPUTE.reader(_context, spec).read(fields)
    if inference:
        check_outputs(spec, task.outputs(), task.dtype, inference)
    if task.estimate.ms > (MAX_RUN_MS if task.is_brief else MAX_EXPLAINED_MS):
        return
    answer = finished(task.work())
    if inference:
        outputs = outputs_of(answer, inference)
        open_inference.encode(spec.name, inference, outputs)
    else:
        text = b"".join(json_codec.encode(answer, encoding=task.encoding))
        json.loads(text, parse_constant=_no_constant)
        safetensors.encode(answer)


def answer_check(data: bytes) -> None:
    """A check whole, with a search that ends early; two bytes choose the layer and protocol."""
    if len(data) < 2:
        return
    name = NAMES[data[0] % len(NAMES)]
    reader = _checks[name]
    codec = tuple(CODECS.values())[data[1] % 2]
    fields = codec.decode(bytearray(data[2:]), reader.tensors, max_rank=MAX_RANK, max_list=MAX_LIST)
    task = reader.read(fields)
    answer = finished(task.work())
    text = b"".join(json_codec.encode(answer, encoding=task.encoding))
    json.loads(text, parse_constant=_no_constant)
    assert answer["match"] == all(tensor["match"] for tensor in answer["tensors"])
    assert not (answer["match"] and answer["diagnosis"])


def read_nested(data: bytes) -> None:
    """A body decoded for its endpoint, and nothing more: tensors at any depth keep their promises,
    and JSON has the members that Python's own parser finds.
    """
    endpoint, media, body = _addressed(data)
    requests = LIMITS.requests
    fields = CODECS[media].decode(
        bytearray(body),
        endpoint.reader.tensors,
        max_rank=requests.max_rank,
        max_list=requests.max_replicas,
    )
    _check_payloads(fields.values())
    if media == JSON:
        _check_members(fields, json.loads(body, parse_constant=_no_constant))


def answer_operation(data: bytes) -> None:
    """A request to any operation, from its bytes to its answer's."""
    answered(*_addressed(data))


def _addressed(data: bytes) -> tuple[Endpoint, str, bytes]:
    """The endpoint and media type that the first line names, or others, and the body."""
    line, _, body = data.partition(b"\n")
    path, _, media = line.decode("latin-1").partition(" ")
    known, number = list(ENDPOINTS), zlib.crc32(line)
    endpoint = ENDPOINTS[path if path in ENDPOINTS else known[number % len(known)]]
    codecs = list(endpoint.codecs)
    return endpoint, media if media in codecs else codecs[number % len(codecs)], body


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "json": read_json,
    "safetensors": read_safetensors,
    "open_inference": read_open_inference,
    "inflate": read_compressed,
    "headers": read_headers,
    "request": answer_request,
    "check": answer_check,
    "nested": read_nested,
    "operation": answer_operation,
}


def feed(target: str, data: bytes) -> bool:
    """Whether the target takes the data; an exception is a finding."""
    try:
        TARGETS[target](data)
    except LaminaError:
        return False
    return True


def _check_payloads(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, TensorPayload):
            size = math.prod(value.shape) * DTYPES[value.dtype].itemsize
            assert value.data.nbytes == size, "a tensor's bytes are those of its shape"
            assert len(value.shape) <= MAX_RANK
        elif isinstance(value, tuple | list):
            _check_payloads(value)
        elif isinstance(value, dict):
            _check_payloads(value.values())


def _check_members(ours: object, pythons: object) -> None:
    if isinstance(ours, dict) and isinstance(pythons, dict):
        assert ours.keys() == pythons.keys()
        for name, value in ours.items():
            _check_members(value, pythons[name])
    elif isinstance(ours, tuple | list) and not isinstance(ours, TensorPayload):
        assert isinstance(pythons, list)
        assert len(ours) == len(pythons)
        for one, other in zip(ours, pythons, strict=True):
            _check_members(one, other)


def _no_constant(token: str) -> NoReturn:
    raise AssertionError(f"{token} is no JSON")
