"""The OpenAPI document: typed operations, generated from the lists of layers and operations."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastapi import Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from app import __version__
from app.api.guard import OPEN
from app.api.paths import path_of
from app.api.problems import MEDIA_TYPE
from app.codecs import JSON, SAFETENSORS
from app.layers import LayerSpec
from app.operations import COMPUTE, LAYER_OPERATIONS, SERVICE_OPERATIONS, Operation
from app.schemas import answers
from app.schemas.tensors import ANSWER_FORMAT, TENSOR_FORMAT, TENSOR_SCHEMAS

BINARY = {
    SAFETENSORS: {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "A safetensors file: tensors by name, and the other fields as JSON in "
            "its metadata, under `request` or `response`.",
        }
    }
}
REFERENCE = "#/components/schemas/{model}"
TENSOR_MODELS = {TENSOR_FORMAT: "Tensor", ANSWER_FORMAT: "AnswerTensor"}
ERRORS = {
    400: "Malformed HTTP, JSON or UTF-8",
    401: "Missing or invalid API key",
    404: "Unknown layer",
    406: "Not acceptable",
    408: "Body timeout",
    411: "Length required",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Invalid request",
    429: "Too many requests",
    431: "Headers too large",
    500: "Internal error",
    503: "Service overloaded or shutting down, out of memory, or device failed",
    504: "Deadline exceeded",
}
OPEN_ERRORS = (400, 431, 500, 503)
"""The errors of paths without API keys and rate limits."""
GET_ERRORS = (*OPEN_ERRORS, 401, 406, 429)
BODY_ERRORS = (*GET_ERRORS, 408, 411, 413, 415, 422, 504)
ERROR_HEADERS = {
    401: ("WWW-Authenticate", "`Bearer`", {"type": "string"}),
    429: ("Retry-After", "Seconds until the next attempt", {"type": "integer", "minimum": 1}),
    503: ("Retry-After", "Seconds until the next attempt", {"type": "integer", "minimum": 1}),
}
SCHEME = "key"
GETS: dict[str, tuple[str, str, type[BaseModel]]] = {
    "/v1/layers": ("listLayers", "Catalog of layers", answers.Catalogue),
    "/v1/layers/{layer}": ("getLayer", "Catalog entry of one layer", answers.LayerCard),
    "/v1/info": ("getInfo", "Versions, device and limits in force", answers.Info),
    "/livez": ("livez", "Liveness of the process", answers.Health),
    "/readyz": ("readyz", "Readiness for requests", answers.Health),
}


def build_document(routes: Sequence[BaseRoute], layers: Mapping[str, LayerSpec]) -> dict[str, Any]:
    """Build the OpenAPI document from the descriptions in the routes."""
    models: list[type[BaseModel]] = [
        *(operation.answer for operation in (*LAYER_OPERATIONS, *SERVICE_OPERATIONS)),
        answers.Problem,
        *(model for *_, model in GETS.values()),
        *(op.request(spec) for spec in layers.values() for op in LAYER_OPERATIONS),
        *(operation.request for operation in SERVICE_OPERATIONS),
    ]
    document = get_openapi(
        title="Lamina",
        version=__version__,
        summary="Neural-network layers over HTTP, with their gradients",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        routes=routes,
    )
    document["security"] = [{}, {SCHEME: []}]
    document["components"] = {
        "schemas": {**TENSOR_SCHEMAS, **_definitions(tuple(dict.fromkeys(models)))},
        "responses": {f"Error{status}": _error(status) for status in ERRORS},
        "securitySchemes": {
            SCHEME: {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, if the service is configured with keys.",
            }
        },
    }
    return document


@functools.cache
def _definitions(models: tuple[type[BaseModel], ...]) -> Any:
    """The schemas of these models by name; built once per process, since they take a while."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE
    )
    return _with_tensors(definitions["$defs"])


def _with_tensors(schema: Any) -> Any:
    """Replace tensors in the schema with references."""
    if isinstance(schema, dict):
        if (model := TENSOR_MODELS.get(str(schema.get("format")))) is not None:
            return {"$ref": REFERENCE.format(model=model)}
        return {key: _with_tensors(value) for key, value in schema.items()}
    return [_with_tensors(item) for item in schema] if isinstance(schema, list) else schema


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _responses(
    model: type[BaseModel],
    errors: Iterable[int],
    headers: Mapping[str, Any] | None = None,
    *,
    binary: bool = False,
) -> dict[str, Any]:
    ok: dict[str, Any] = {
        "description": "The answer",
        "content": {JSON: {"schema": _reference(model)}, **(BINARY if binary else {})},
    }
    if headers:
        ok["headers"] = headers
    return {
        "200": ok,
        **{
            str(status): {"$ref": f"#/components/responses/Error{status}"}
            for status in sorted(errors)
        },
    }


def _error(status: int) -> dict[str, Any]:
    problem = {MEDIA_TYPE: {"schema": _reference(answers.Problem)}}
    response: dict[str, Any] = {"description": ERRORS[status], "content": problem}
    if status in ERROR_HEADERS:
        name, text, schema = ERROR_HEADERS[status]
        response["headers"] = {name: {"description": text, "schema": schema}}
    return response


def described_get(path: str, layers: Iterable[str] = ()) -> dict[str, Any]:
    """FastAPI's arguments for a GET route: operation ID, summary, tags, responses."""
    operation, summary, model = GETS[path]
    errors = OPEN_ERRORS if path in OPEN else GET_ERRORS
    extra: dict[str, Any] = {
        "responses": _responses(model, (*errors, 404) if "{" in path else errors)
    }
    if "{" in path:
        names = {"name": "layer", "in": "path", "required": True, "schema": {"enum": [*layers]}}
        extra["parameters"] = [names]
    if path in OPEN:
        extra["security"] = []
    return {
        "operation_id": operation,
        "summary": summary,
        "tags": ["service"],
        "response_class": Response,
        "openapi_extra": extra,
    }


def _camel(name: str) -> str:
    first, *rest = name.replace("/", "_").split("_")
    return first + "".join(word.capitalize() for word in rest)


TIMING = {
    "Server-Timing": {
        "description": "queue, decode, compute and encode, ms",
        "schema": {"type": "string"},
    }
}


def described_posts(layers: Mapping[str, LayerSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of every operation, of each layer and of the service, and FastAPI's arguments."""
    for spec in layers.values():
        for operation in LAYER_OPERATIONS:
            name = spec.name if operation is COMPUTE else f"{spec.name}_{operation.name}"
            bodies = _bodies(operation, operation.request(spec), operation.example(spec))
            yield (
                path_of(operation, spec.name),
                {
                    "operation_id": _camel(name),
                    "summary": operation.summary(spec),
                    "tags": [spec.family],
                    "response_class": Response,
                    "openapi_extra": bodies,
                },
            )
    for whole in SERVICE_OPERATIONS:
        yield (
            path_of(whole, ""),
            {
                "operation_id": _camel(whole.name),
                "summary": whole.summary,
                "tags": ["service"],
                "response_class": Response,
                "openapi_extra": _bodies(whole, whole.request, whole.example),
            },
        )


def _bodies(
    operation: Operation, request: type[BaseModel], example: Mapping[str, Any]
) -> dict[str, Any]:
    content = {JSON: {"schema": _reference(request), "example": dict(example)}}
    return {
        "requestBody": {
            "required": True,
            "content": {**content, **(BINARY if operation.binary else {})},
        },
        "responses": _responses(operation.answer, BODY_ERRORS, TIMING, binary=operation.binary),
    }
