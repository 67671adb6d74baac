"""The services that are compared, each written as its own documentation suggests."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

HERE = "benchmarks.contestants"
OPTIONS: Mapping[str, dict[str, Any]] = {
    "max_pool2d": {"kernel_size": 2, "grad_output": "ones"},
    "batch_norm2d": {"training": True, "grad_output": "ones"},
}
"""What Lamina is asked for; the others' layers do this and nothing else."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One service: its command, where it answers, and what its requests hold beside the input."""

    name: str
    package: str
    command: tuple[str, ...]
    path: str

    @property
    def is_installed(self) -> bool:
        """Whether its package is here."""
        return find_spec(self.package) is not None

    def started(self, port: int) -> list[str]:
        """The command that serves on this port."""
        return [part.replace("PORT", str(port)) for part in self.command]

    def url(self, layer: str) -> str:
        """Where it computes the layer."""
        return self.path.replace("LAYER", layer)

    def fields(self, layer: str) -> dict[str, Any]:
        """What stands beside `input` in a request."""
        return OPTIONS[layer] if self.name == "lamina" else {"layer": layer}


def _python(module: str, *rest: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *rest)


UVICORN = ("--port", "PORT", "--no-access-log", "--log-level", "warning")
TYPED = Contestant("typed", "fastapi", _python("uvicorn", f"{HERE}.typed:app", *UVICORN), "/LAYER")
ASYNC = Contestant("typed async", "fastapi", TYPED.command, "/async/LAYER")
PATIENT = ("env", "LAMINA_QUEUE_TIMEOUT_MS=60000")
"""The others queue without limit; by default, Lamina refuses requests that would wait for 2 s."""
LAMINA = Contestant(
    "lamina",
    "app",
    (*PATIENT, *_python("app.server.cli", "serve", "--port", "PORT")),
    "/v1/layers/LAYER",
)
STARLETTE = Contestant(
    "starlette", "starlette", _python("uvicorn", f"{HERE}.bare:app", *UVICORN), "/LAYER"
)
RAY = Contestant("ray", "ray", _python(f"{HERE}.ray_service", "PORT"), "/")
PEERS = (
    Contestant("litserve", "litserve", _python(f"{HERE}.litserve_service", "PORT"), "/predict"),
    Contestant(
        "bentoml",
        "bentoml",
        _python("bentoml", "serve", f"{HERE}.bentoml_service:Layers", "--port", "PORT"),
        "/LAYER",
    ),
    Contestant(
        "mosec",
        "mosec",
        # It would give up large inputs after 3 s, which a busy machine takes.
        _python(f"{HERE}.mosec_service", "--port", "PORT", "--timeout", "60000"),
        "/inference",
    ),
    RAY,
)
