"""Every operation of every layer and of the service, from the lists: its reader, its example, and
a request whole, from its bytes to its answer's, under the same rules for all.
"""

import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from app.api.problems import refusal
from app.codecs import CODECS, SAFETENSORS
from app.codecs import json as json_codec
from app.codecs import safetensors as safetensors_codec
from app.compute import Engine
from app.errors import LaminaError, RequestError
from app.layers import LAYERS
from app.operations import LAYER_OPERATIONS, SERVICE_OPERATIONS, Context, Operation, Reader
from app.scheduling import finished
from app.settings import Settings
from tests.fuzz._pointers import leads_somewhere

MAX_COST_MS = 20
"""The cost limit of the service that is fuzzed, or the fuzzer would only wait."""
MAX_RUN_MS = 5.0
"""Requests estimated above this are planned and not run; checks end by themselves."""
MAX_PROBLEM_BYTES = 8192


class Endpoint(NamedTuple):
    """One operation, of one layer or of the service. `path` is that of its route, below `/v1/`."""

    path: str
    operation: Operation
    reader: Reader
    example: Mapping[str, Any]

    @property
    def codecs(self) -> Mapping[str, ModuleType]:
        """By media type: those in which a body may come."""
        binary = self.operation.binary
        return {media: c for media, c in CODECS.items() if binary or media != SAFETENSORS}


def _endpoints(context: Context) -> Iterator[Endpoint]:
    for operation in LAYER_OPERATIONS:
        for name, spec in context.layers.items():
            path = f"layers/{name}/{operation.name}"
            reader = operation.reader(context, spec)
            yield Endpoint(path, operation, reader, operation.example(spec))
    for service in SERVICE_OPERATIONS:
        yield Endpoint(service.name, service, service.reader(context), service.example)


LIMITS = Settings(max_cost_ms=MAX_COST_MS).limits
ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in _endpoints(Context(Engine("cpu", LIMITS), LAYERS, refusal))
}
"""By path, `layers/relu/check`; a layer's own operation is `layers/relu/compute` here."""


def answered(endpoint: Endpoint, media: str, body: bytes) -> Any:
    """The answer to a body as Python's own parser reads it; None: it was planned and not run.

    Raises:
        LaminaError: the service's refusal, which keeps its promises: it is short, and points to
            what was sent.
        AssertionError: a promise that is not kept.

    """
    try:
        fields = CODECS[media].decode(
            bytearray(body),
            endpoint.reader.tensors,
            max_rank=LIMITS.requests.max_rank,
            max_list=LIMITS.requests.max_replicas,
        )
        task = endpoint.reader.read(fields)
        assert task.estimate.ms >= 0
        assert task.estimate.bytes >= 0
        ends_by_itself = endpoint.operation.name == "check"
        if task.estimate.ms > MAX_RUN_MS and not ends_by_itself:
            return None
        answer = finished(task.work())
    except RequestError as error:
        check_refusal(media, body, error)
        raise
    safetensors_codec.encode(answer)
    text = b"".join(json_codec.encode(answer, encoding=task.encoding))
    return json.loads(text, parse_constant=_no_constant)


def check_refusal(media: str, body: bytes, error: RequestError) -> None:
    """A refusal is an answer of bounded size, whose pointers lead to something in the body."""
    problem: Any = refusal(error)
    assert 400 <= problem["status"] < 500
    assert len(json.dumps(problem)) <= MAX_PROBLEM_BYTES
    for found in error.errors:
        leads = leads_somewhere(media, body, found.pointer, found.code)
        assert leads, f"{found.pointer} is not in the request"


def taken(endpoint: Endpoint, media: str, body: bytes) -> bool:
    """Whether the body is not refused; any exception but a refusal passes through."""
    try:
        answered(endpoint, media, body)
    except LaminaError:
        return False
    return True


def _no_constant(token: str) -> NoReturn:
    raise AssertionError(f"{token} is no JSON")
