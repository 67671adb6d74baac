"""What is asked of the services: the layers, the sizes, the requests, and the answers to expect."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from benchmarks.contestants import LAMINA, OPTIONS, STARLETTE, Contestant
from benchmarks.contestants.torch_layers import LAYERS
from benchmarks.load import Request

SHAPES = {16: (1, 1, 4, 4), 24_576: (8, 3, 32, 32), 802_816: (4, 64, 56, 56)}
BINARY = "application/vnd.safetensors"
BATCH = 64


@dataclass(frozen=True, slots=True)
class Work:
    """One layer with its gradients, on an input of one size, in JSON or in bytes."""

    layer: str
    floats: int
    encoding: str = "JSON"

    def __str__(self) -> str:
        return f"{self.layer}, {self.floats:,} floats, {self.encoding}"

    @property
    def input(self) -> np.ndarray[Any, Any]:
        return np.random.default_rng(0).standard_normal(SHAPES[self.floats], "f4")

    def request(self, contestant: Contestant) -> Request:
        """The request that this contestant answers."""
        x, url = self.input, contestant.url(self.layer)
        if self.encoding == "JSON":
            return Request(url, _json({"input": x, **contestant.fields(self.layer)}))
        if contestant is STARLETTE:
            shape = ",".join(map(str, x.shape))
            return Request(url, x.tobytes(), f"X-Shape: {shape}\r\n")
        body = save({"input": x}, {"request": _json(OPTIONS[self.layer]).decode()})
        return Request(url, body, f"Content-Type: {BINARY}\r\nAccept: {BINARY}\r\n")

    def verify(self, body: bytes | memoryview) -> None:
        """The answer, in JSON, has torch's numbers."""
        answer = orjson.loads(body)
        gradients, running = answer.get("gradients", {}), answer.get("running_stats", {})
        for name, wanted in LAYERS[self.layer](self.input).items():
            group, _, part = name.partition("_")
            nested = {"grad": gradients, "running": running}.get(group, {})
            found = answer[name] if name in answer else nested[part]
            np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4, atol=1e-3)


def batch_request(layer: str) -> Request:
    """One request with `BATCH` requests of 16 floats."""
    one = {"layer": layer, "input": Work(layer, 16).input, **OPTIONS[layer]}
    return Request("/v1/batch", _json({"requests": [one] * BATCH}))


def single_request(layer: str) -> Request:
    """One of those requests alone."""
    return Work(layer, 16).request(LAMINA)


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
