"""Layers that fail, and a service in which every error can be had with small requests."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from app import errors
from app.layers import LAYERS, LayerSpec
from app.main import create_app
from app.settings import Settings

CANARY = "canary7f3a91"
NUMBER = 1234567.0625
ORIGIN = "https://a.example"
LIMITS: dict[str, Any] = {
    "max_json_body_bytes": 4096,
    "max_output_bytes": 1 << 20,
    "max_cost_ms": 1,
}
BODY = {"input": [NUMBER]}


def bug(*arguments: Any) -> Any:
    """Fails with the input in its message, and in that of its cause."""
    tensors = arguments[0]["input"].tolist()
    try:
        raise KeyError(f"{CANARY} {tensors}")
    except KeyError as error:
        raise RuntimeError(f"{CANARY} {tensors} at /secret/{CANARY}.py") from error


def raising(error: BaseException) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        raise error

    return run


FAULTS: Mapping[str, Callable[..., Any]] = {
    "bug": bug,
    "out_of_memory": raising(torch.OutOfMemoryError(CANARY)),
    "device_lost": raising(torch.AcceleratorError(CANARY)),
    "overloaded": raising(errors.Overloaded("the queue is full", 2.5)),
    "draining": raising(errors.Draining("the service is about to end")),
    "body_timeout": raising(errors.BodyTimeout("the body paused for too long")),
    "length_required": raising(errors.LengthRequired("expected a Content-Length")),
    "deadline": raising(errors.DeadlineExceeded("the request's time is over")),
}


def layers() -> dict[str, LayerSpec]:
    """The list of layers, and after it a layer for each fault."""
    relu = LAYERS["relu"]
    return {
        **LAYERS,
        **{name: replace(relu, name=name, run=run) for name, run in FAULTS.items()},
    }


def app(**settings: Any) -> Any:
    """A service with low limits."""
    given = LIMITS | {"cors_origins": ORIGIN} | settings
    return create_app(Settings(**given), layers())
