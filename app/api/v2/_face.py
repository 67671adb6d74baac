"""The protocol's inference requests and responses, served by the same pipeline as `/v1`."""

from app.api.bodies import Headers
from app.api.pipeline import Header, Pieces, Wire
from app.api.v2._mapping import check_outputs, fields_of, outputs_of
from app.api.v2._statistics import ENCODING
from app.codecs import JSON, json
from app.codecs.inflate import WINDOW_BITS, inflate
from app.codecs.open_inference import Inference, decode, encode
from app.compute import Answer
from app.errors import BodyTooLarge, MalformedBody, UnsupportedMedia
from app.layers import LayerSpec
from app.limits import Limits
from app.operations import Fields, Reader, Task

HEADER_LENGTH = b"inference-header-content-length"
INLINE_BYTES = 32 * 1024
"""Requests up to this size are decoded on the event loop, in well under a millisecond."""
INLINE_NUMBERS = INLINE_BYTES // 4
"""Answers with up to this many numbers are encoded there."""


class OpenInference:
    """The protocol for one model."""

    def __init__(self, spec: LayerSpec, reader: Reader, limits: Limits) -> None:
        self.spec = spec
        self.tensors = reader.tensors
        self.limits = limits

    def encoding(self, headers: Headers) -> str:  # noqa: ARG002
        """The same for all requests: one request may mix JSON and binary data."""
        return ENCODING

    def wire(self, headers: Headers) -> Wire:
        """The wire format that the headers select.

        Raises:
            UnsupportedMedia: the Content-Encoding is not supported.
            MalformedBody: the length of the JSON part is not a number.

        """
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity" and encoding not in WINDOW_BITS:
            raise UnsupportedMedia("expected Content-Encoding: gzip or deflate, or none")
        return _Wire(self, encoding, _header_length(headers))


class _Wire:
    """The wire format of one request, which also determines that of its answer."""

    def __init__(self, face: OpenInference, encoding: bytes, header_length: int | None) -> None:
        self.max_body_bytes = face.limits.bodies.max_binary_bytes
        self._face = face
        self._encoding = encoding
        self._header_length = header_length
        self._inference: Inference

    def need_bytes(self, body_bytes: int) -> int:
        """Memory needed to decode a body; its JSON part takes more than its binary part."""
        if self._encoding != b"identity":
            body_bytes += self.max_body_bytes
        length = body_bytes if self._header_length is None else self._header_length
        text_bytes = min(length, body_bytes, self._face.limits.bodies.max_json_bytes)
        return body_bytes + json.need_bytes(text_bytes)

    def reads_inline(self, body: bytes | bytearray) -> bool:
        # A small compressed body may inflate to a large one.
        return len(body) <= INLINE_BYTES and self._encoding == b"identity"

    def read(self, body: bytes | bytearray) -> Fields:
        face, limits = self._face, self._face.limits
        if self._encoding in WINDOW_BITS:
            body = inflate(body, self._encoding, self.max_body_bytes)
        text_bytes = len(body) if self._header_length is None else self._header_length
        most = limits.bodies.max_json_bytes
        if text_bytes > most:
            raise BodyTooLarge(f"expected at most {most} bytes of JSON; got {text_bytes}")
        many = len(face.tensors) + 2 * limits.requests.max_replicas + 1
        self._inference = decode(
            body, self._header_length, max_rank=limits.requests.max_rank, max_tensors=many
        )
        return fields_of(face.spec, face.tensors, self._inference, limits.requests.max_replicas)

    def check(self, task: Task) -> None:
        check_outputs(self._face.spec, task.outputs(), task.dtype, self._inference)

    def answer_bytes(self, task: Task) -> int:
        printed = task.estimate.numbers if self._inference.wants_text else 0
        return json.answer_bytes(printed, task.dtype)

    def writes_inline(self, task: Task) -> bool:
        return task.estimate.numbers <= INLINE_NUMBERS

    def write(self, task: Task, answer: Answer) -> tuple[Pieces, tuple[Header, ...]]:  # noqa: ARG002
        outputs = outputs_of(answer, self._inference)
        pieces, length = encode(self._face.spec.name, self._inference, outputs)
        if length is None:
            return pieces, ((b"content-type", JSON.encode()),)
        binary = (b"content-type", b"application/octet-stream")
        return pieces, (binary, (HEADER_LENGTH, b"%d" % length))


def _header_length(headers: Headers) -> int | None:
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise MalformedBody("Inference-Header-Content-Length: expected an integer number of bytes")
    return int(text)
