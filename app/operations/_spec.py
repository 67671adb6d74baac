"""What an operation is: the source from which routes, documents, and the pipeline are derived."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from app.compute import Answer, Engine, Estimate
from app.errors import RequestError
from app.layers import LayerSpec
from app.scheduling import Steps
from app.schemas.tensors import Field

Fields = Mapping[str, object]
"""A request's fields as decoded by a codec."""


@dataclass(frozen=True, slots=True)
class Task:
    """A validated request: its estimated cost, and the work that answers it.

    `dtype` is the dtype of the answer's numbers, and `encoding` is how they are serialized to
    JSON; `is_brief` says that the answer has nothing but those numbers. `outputs` names the
    tensors that an answer can have, including gradients. Long work is a generator that yields
    between its steps, where a request that nobody waits for is dropped.
    """

    estimate: Estimate
    work: Callable[[], Answer | Steps[Answer]]
    dtype: str = "float32"
    encoding: str = "nested"
    is_brief: bool = True
    outputs: Callable[[], Sequence[str]] = tuple


class Reader(Protocol):
    """Reads the requests of one operation, or of one operation and layer."""

    @property
    def tensors(self) -> Mapping[str, Field]:
        """The fields that a codec decodes as tensors."""

    def read(self, fields: Fields) -> Task:
        """Validate the request and turn it into a task.

        Raises:
            InvalidRequest: fields that are invalid or exceed a limit.

        """


@dataclass(frozen=True, slots=True)
class Context:
    """What operations are built from: the engine, the layers, and how an error is reported in an
    answer.
    """

    engine: Engine
    layers: Mapping[str, LayerSpec]
    refusal: Callable[[RequestError], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOperation:
    """An operation available on each layer.

    `request` and `answer` are the models of the bodies, `example` is a valid request, and `reader`
    builds the `Reader`. `binary` says whether tensors may be sent and returned as bytes;
    `max_body_bytes` limits a body further than its media type does.
    """

    name: str
    summary: Callable[[LayerSpec], str]
    request: Callable[[LayerSpec], type[BaseModel]]
    answer: type[BaseModel]
    example: Callable[[LayerSpec], dict[str, Any]]
    reader: Callable[[Context, LayerSpec], Reader]
    binary: bool = False
    max_body_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOperation:
    """An operation on the service as a whole."""

    name: str
    summary: str
    request: type[BaseModel]
    answer: type[BaseModel]
    example: Mapping[str, Any]
    reader: Callable[[Context], Reader]
    binary: bool = False
    max_body_bytes: int | None = None


Operation = LayerOperation | ServiceOperation
