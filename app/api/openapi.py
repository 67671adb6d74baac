"""The OpenAPI document: one typed operation a layer, made from the list of layers."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import __version__
from app.api.problems import MEDIA_TYPE
from app.codecs import JSON, SAFETENSORS
from app.layers import LayerSpec, compute_model, shape_model
from app.schemas import answers
from app.schemas.tensors import ANSWER_FORMAT, TENSOR_FORMAT, TENSOR_SCHEMAS

BINARY = {
    SAFETENSORS: {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "A safetensors file: the tensors by name, the rest as JSON in its "
            "metadata, under `request` or `response`.",
        }
    }
}
REFERENCE = "#/components/schemas/{model}"
TENSOR_MODELS = {TENSOR_FORMAT: "Tensor", ANSWER_FORMAT: "AnswerTensor"}
BODY_ERRORS = {
    400: "Not JSON, or not UTF-8",
    406: "No acceptable answer format",
    413: "The body is over the limit",
    415: "Not a JSON body",
    422: "Well formed and wrong",
    500: "A fault of the service",
    503: "No memory, or the device failed",
}
GETS: tuple[tuple[str, str, str, type[BaseModel]], ...] = (
    ("/v1/layers", "listLayers", "The catalogue of layers", answers.Catalogue),
    ("/v1/info", "getInfo", "Versions, device, limits in force", answers.Info),
    ("/livez", "livez", "Whether the process lives", answers.Health),
    ("/readyz", "readyz", "Whether the process takes requests", answers.Health),
)


def build_document(layers: Mapping[str, LayerSpec]) -> dict[str, Any]:
    """The whole document, ready to print."""
    models: list[type[BaseModel]] = [
        answers.LayerAnswer,
        answers.ShapeAnswer,
        answers.LayerCard,
        answers.Problem,
        *(model for *_, model in GETS),
    ]
    for spec in layers.values():
        models += [compute_model(spec), shape_model(spec)]
    unique = list(dict.fromkeys(models))
    _, definitions = models_json_schema(
        [(model, "validation") for model in unique], ref_template=REFERENCE
    )
    paths = {path: {"get": _get(operation, text, model)} for path, operation, text, model in GETS}
    paths["/v1/layers/{layer}"] = {
        "get": {
            **_get("getLayer", "One layer of the catalogue", answers.LayerCard, {404: "No layer"}),
            "parameters": [
                {"name": "layer", "in": "path", "required": True, "schema": {"enum": [*layers]}}
            ],
        }
    }
    for spec in layers.values():
        path = f"/v1/layers/{spec.name}"
        paths[path] = {"post": _compute(spec)}
        paths[f"{path}/shape"] = {"post": _shape(spec)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lamina",
            "version": __version__,
            "summary": "Neural-network layers over HTTP, with their gradients",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {**TENSOR_SCHEMAS, **_with_tensors(definitions["$defs"])}},
    }


def _with_tensors(schema: Any) -> Any:
    """The schema with references where tensors stand."""
    if isinstance(schema, dict):
        if (model := TENSOR_MODELS.get(str(schema.get("format")))) is not None:
            return {"$ref": REFERENCE.format(model=model)}
        return {key: _with_tensors(value) for key, value in schema.items()}
    return [_with_tensors(item) for item in schema] if isinstance(schema, list) else schema


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def _responses(
    model: type[BaseModel],
    errors: Mapping[int, str],
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
    problem = {MEDIA_TYPE: {"schema": _reference(answers.Problem)}}
    return {
        "200": ok,
        **{
            str(status): {"description": text, "content": problem}
            for status, text in errors.items()
        },
    }


def _get(
    operation: str,
    summary: str,
    model: type[BaseModel],
    errors: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["service"],
        "responses": _responses(model, errors or {}),
    }


def _operation(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _compute(spec: LayerSpec) -> dict[str, Any]:
    timing = {
        "Server-Timing": {
            "description": "queue, decode, compute and encode, ms",
            "schema": {"type": "string"},
        }
    }
    return {
        "operationId": _operation(spec.name),
        "summary": spec.summary,
        "tags": [spec.family],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": _reference(compute_model(spec)),
                    "example": dict(spec.example),
                },
                **BINARY,
            },
        },
        "responses": _responses(answers.LayerAnswer, BODY_ERRORS, timing, binary=True),
    }


def _shape(spec: LayerSpec) -> dict[str, Any]:
    return {
        "operationId": _operation(spec.name + "_shape"),
        "summary": f"Output shape of {spec.name}, without data",
        "tags": [spec.family],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": _reference(shape_model(spec)),
                    "example": shape_example(spec),
                }
            },
        },
        "responses": _responses(answers.ShapeAnswer, BODY_ERRORS),
    }


def shape_example(spec: LayerSpec) -> dict[str, Any]:
    """The spec's example as a shape request."""
    ports = {port.name for port in spec.inputs}
    example = {name: value for name, value in spec.example.items() if name not in ports}
    if spec.shape_fields is not None:
        fields = spec.shape_fields.model_fields.items()
        example |= {name: field.examples[0] for name, field in fields if field.examples}
    sent: Any = spec.example[spec.inputs[0].name]
    if spec.many:
        return {"input_shapes": list(map(_nested_shape, sent)), **example}
    return {"input_shape": _nested_shape(sent), **example}


def _nested_shape(nested: Any) -> list[int]:
    return [len(nested), *_nested_shape(nested[0])] if isinstance(nested, list) else []
