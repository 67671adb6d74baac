"""What an operation is: everything that routes, documents and the pipeline derive from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from app.compute import Answer, Engine, Estimate
from app.errors import RequestError
from app.layers import LayerSpec
from app.schemas.tensors import Field

Fields = Mapping[str, object]
"""A request's fields as a codec read them."""


@dataclass(frozen=True, slots=True)
class Task:
    """A request that was read and checked: what it takes, and the work that answers it.

    `dtype` is that of the answer's numbers, and `encoding` how they are written as JSON;
    `is_brief` says that nothing but those numbers is to be written. `outputs` names the tensors
    that an answer can have, gradients included.
    """

    estimate: Estimate
    work: Callable[[], Answer]
    dtype: str = "float32"
    encoding: str = "nested"
    is_brief: bool = True
    outputs: Callable[[], Sequence[str]] = tuple


class Reader(Protocol):
    """Reads the requests of one operation; of one layer, where there is one for each layer."""

    @property
    def tensors(self) -> Mapping[str, Field]:
        """The fields that a codec reads as tensors."""

    def read(self, fields: Fields) -> Task:
        """The request as a task.

        Raises:
            InvalidRequest: fields that are wrong, or over a limit.

        """


@dataclass(frozen=True, slots=True)
class Context:
    """What operations are built from: the engine, the layers, and how an error is told in an
    answer.
    """

    engine: Engine
    layers: Mapping[str, LayerSpec]
    refusal: Callable[[RequestError], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOperation:
    """What can be asked of each layer.

    `request` and `answer` are the models of the bodies, `example` is a request that works, and
    `reader` builds what reads requests. `binary` says whether tensors may come and go as bytes;
    `max_body_bytes` bounds a body below the limits of its media type.
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
    """What can be asked of the service as a whole."""

    name: str
    summary: str
    request: type[BaseModel]
    answer: type[BaseModel]
    example: Mapping[str, Any]
    reader: Callable[[Context], Reader]
    binary: bool = False
    max_body_bytes: int | None = None


Operation = LayerOperation | ServiceOperation
