"""Many independent requests in one; each succeeds or fails on its own, as if sent alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from app.codecs import json
from app.compute import Answer, Estimate
from app.errors import CostLimit, InvalidRequest, RequestError, UnknownLayer
from app.layers import LAYERS
from app.operations import layer, shape
from app.operations._spec import Context, Fields, Reader, ServiceOperation, Task
from app.operations._validation import nearest, validated
from app.scheduling import finished
from app.schemas.batch import BatchAnswer, BatchCall
from app.schemas.tensors import DocumentsField, Field

OPERATIONS = {operation.name: operation for operation in (layer.OPERATION, shape.OPERATION)}
SHAPE_FIELDS = {"input_shape", "input_shapes"}
ANSWER_BYTES, ANSWER_MS = 1024, 0.1
"""Overhead of an answer in addition to its numbers and their computation."""


class BatchReader:
    """Reads batches, each request with the reader of its layer and operation."""

    def __init__(self, context: Context) -> None:
        self._max_cost_ms = context.engine.limits.results.max_cost_ms
        self._refusal = context.refusal
        self._layers = tuple(context.layers)
        self._readers: dict[tuple[str, str], Reader] = {
            (name, operation.name): operation.reader(context, one)
            for name, one in context.layers.items()
            for operation in OPERATIONS.values()
        }
        most = context.engine.limits.requests.max_batch_requests
        self.tensors: Mapping[str, Field] = {
            "requests": DocumentsField(most, lambda members: self._reader(members).tensors)
        }

    def read(self, fields: Fields) -> Task:
        """Turn the batch into one task whose cost is the sum of its requests' costs.

        Raises:
            InvalidRequest: not a list of objects.
            CostLimit: the requests together would take too long.

        """
        call = validated(BatchCall, fields)
        read = [self._task(request) for request in call.requests]
        tasks = [task for task in read if isinstance(task, Task)]
        estimate = sum((task.estimate for task in tasks), Estimate())
        if estimate.ms > self._max_cost_ms:
            detail = (
                f"the batch would take about {estimate.ms:.0f} ms; the limit is "
                f"{self._max_cost_ms} ms. Split it into smaller batches"
            )
            raise CostLimit(detail)
        return Task(
            estimate + Estimate(ANSWER_MS * len(read), ANSWER_BYTES * len(read)),
            partial(self._answer, read),
            dtype="float64" if any(task.dtype == "float64" for task in tasks) else "float32",
        )

    def _task(self, request: object) -> Task | RequestError:
        """Turn one request into a task, or return the error that refuses it."""
        if isinstance(request, RequestError):
            return request
        assert isinstance(request, dict)
        try:
            reader = self._reader(request)
            own = {k: v for k, v in request.items() if k not in ("layer", "operation")}
            return reader.read(own)
        except RequestError as error:
            return error

    def _reader(self, members: Mapping[str, object]) -> Reader:
        """The reader for a request's layer and operation; `input_shape` implies `shape`."""
        name = members.get("layer")
        if not isinstance(name, str):
            code = "missing" if name is None else "string-type"
            raise InvalidRequest.at("layer", code, "layer: expected the name of a layer")
        if name not in self._layers:
            raise UnknownLayer(f"layer: no layer has that name; {nearest(name, self._layers)}")
        implied = "shape" if SHAPE_FIELDS & members.keys() else "compute"
        operation = members.get("operation", implied)
        if not isinstance(operation, str) or operation not in OPERATIONS:
            detail = f"operation: must be {' or '.join(map(repr, OPERATIONS))}"
            raise InvalidRequest.at("operation", "literal-error", detail)
        return self._readers[name, operation]

    def _answer(self, read: Sequence[Task | RequestError]) -> Answer:
        return {"responses": list(map(self._response, read))}

    def _response(self, task: Task | RequestError) -> dict[str, Any]:
        if isinstance(task, RequestError):
            return self._refusal(task)
        try:
            text = json.printed(finished(task.work()), encoding=task.encoding)
        except RequestError as error:
            return self._refusal(error)
        return {"status": 200, "body": text}


OPERATION = ServiceOperation(
    name="batch",
    summary="Many independent requests in one",
    request=BatchCall,
    answer=BatchAnswer,
    example={
        "requests": [{"layer": name, **LAYERS[name].example} for name in ("max_pool2d", "relu")]
    },
    reader=BatchReader,
)
