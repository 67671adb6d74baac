"""The service's own protocol, `/v1`: JSON or safetensors, for requests and for answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from app.api.accept import accepted
from app.api.bodies import Headers, media_type
from app.api.pipeline import Header, Pieces, Wire
from app.codecs import CODECS, JSON, SAFETENSORS
from app.compute import Answer
from app.limits import Limits, RequestLimits
from app.operations import Fields, Operation, Reader, ServiceOperation, Task
from app.schemas.tensors import DocumentsField

ENCODINGS = {JSON.encode(): "json", SAFETENSORS.encode(): "safetensors"}
MANY_INLINE_BYTES = 1024
"""Lower, because a body of many small requests takes longer to decode than its size suggests."""
TYPES = {media: (b"content-type", media.encode()) for media in CODECS}


@dataclass(slots=True)
class RestWire:
    """The wire format of one request: the codecs of its body and of its answer, and its limits."""

    tensors: Mapping[str, object]
    codec: ModuleType
    writer: ModuleType
    media: str
    limits: RequestLimits
    max_body_bytes: int
    inline_bytes: int
    readings: int

    def need_bytes(self, body_bytes: int) -> int:
        need: int = self.codec.need_bytes(self.readings * body_bytes)
        return need

    def reads_inline(self, body: bytes | bytearray) -> bool:
        return len(body) <= self.inline_bytes

    def read(self, body: bytes | bytearray) -> Fields:
        fields: Fields = self.codec.decode(
            body,
            self.tensors,
            max_rank=self.limits.max_rank,
            max_list=self.limits.max_replicas,
        )
        return fields

    def check(self, task: Task) -> None:
        """Nothing to refuse: both codecs can express every answer."""

    def answer_bytes(self, task: Task) -> int:
        need: int = self.writer.answer_bytes(task.estimate.numbers, task.dtype)
        return need

    def writes_inline(self, task: Task) -> bool:
        return task.is_brief and task.estimate.numbers <= self.writer.INLINE_NUMBERS

    def write(self, task: Task, answer: Answer) -> tuple[Pieces, tuple[Header, ...]]:
        return self.writer.encode(answer, encoding=task.encoding), (TYPES[self.media],)


class Rest:
    """The `/v1` protocol for one operation."""

    def __init__(self, operation: Operation, reader: Reader, limits: Limits) -> None:
        self._tensors = reader.tensors
        self._limits = limits.requests
        self._holds_many = isinstance(operation, ServiceOperation)
        documents = (isinstance(field, DocumentsField) for field in reader.tensors.values())
        self._readings = 2 if any(documents) else 1  # the whole body, then each request in it
        self._taken = tuple(CODECS) if operation.binary else (JSON,)
        self._most_bytes = {
            media: min(most, operation.max_body_bytes or most)
            for media, most in (
                (JSON, limits.bodies.max_json_bytes),
                (SAFETENSORS, limits.bodies.max_binary_bytes),
            )
        }

    def encoding(self, headers: Headers) -> str:
        """`json`, `safetensors`, or `other`."""
        return ENCODINGS.get(headers.get(b"content-type", b""), "other")

    def wire(self, headers: Headers) -> Wire:
        """The wire format that `Content-Type` and `Accept` select."""
        sent, wanted = media_type(headers, self._taken), accepted(headers, self._taken)
        return RestWire(
            self._tensors,
            CODECS[sent],
            CODECS[wanted],
            wanted,
            self._limits,
            self._most_bytes[sent],
            MANY_INLINE_BYTES if self._holds_many else CODECS[sent].INLINE_BYTES,
            self._readings,
        )
