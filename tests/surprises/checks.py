"""What a row of the table is made of: requests, and what Lamina must answer to them.

The numbers expected are worked out by hand or by the formulas here, never by Lamina or torch.
"""

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS
from app.operations import from_validation
from tests.conftest import compute

Body = Mapping[str, Any]
Check = Callable[[Engine], None]

NAN, INF = math.nan, math.inf
EPS = 1e-5
FLOAT32_3_3 = 13_841_203 / 2**22
"""The float32 next to 3.3."""
LAYOUTS = ("channels_first", "channels_last")


@dataclass(frozen=True, slots=True)
class Answers:
    """The layer answers with these numbers; `advice` is a code that `explain` must give."""

    layer: str
    body: Body
    expected: Mapping[str, object]
    """Dotted path in the answer: its numbers."""
    within: float = 0.0
    """Largest error; 0 compares the signs of zeros too."""
    advice: str | None = None

    def __call__(self, engine: Engine) -> None:
        body = {**self.body, "explain": True} if self.advice else self.body
        answer = compute(engine, self.layer, dict(body))
        for path, numbers in self.expected.items():
            check_equal(at(answer, path), numbers, self.within)
        if self.advice:
            assert self.advice in advice_codes(answer)


@dataclass(frozen=True, slots=True)
class Refuses:
    """The request is refused with this kind of problem, and nothing but `pointer` is wrong."""

    layer: str
    body: Body
    pointer: str | None
    """None: the request as a whole is over a limit."""
    code: str = "invalid-request"

    def __call__(self, engine: Engine) -> None:
        with pytest.raises((InvalidRequest, ValidationError)) as caught:
            compute(engine, self.layer, dict(self.body))
        error = as_problem(caught.value)
        assert error.code == self.code
        assert [found.pointer for found in error.errors] == ([self.pointer] if self.pointer else [])


@dataclass(frozen=True, slots=True)
class Lacks:
    """Lamina has no layer of these names."""

    layers: tuple[str, ...]

    def __call__(self, engine: Engine) -> None:
        assert not set(self.layers) & LAYERS.keys()


@dataclass(frozen=True, slots=True)
class Surprise:
    """One row: a call, what torch does, what Lamina does, and the checks that hold it."""

    number: int
    call: str
    torch: str
    lamina: str
    checks: tuple[Check, ...]


def as_problem(error: Exception) -> InvalidRequest:
    """The refusal as it is sent."""
    if isinstance(error, ValidationError):
        return from_validation(error, known=())
    assert isinstance(error, InvalidRequest)
    return error


def at(answer: Any, path: str) -> object:
    """What stands at a dotted path of the answer."""
    for part in path.split("."):
        answer = answer[int(part) if part.isdigit() else part]
    found: object = answer
    return found


def as_doubles(numbers: Any) -> torch.Tensor:
    """A tensor, nested lists or a number as a float64 tensor."""
    if isinstance(numbers, torch.Tensor):
        return numbers.double()
    return torch.tensor(numbers, dtype=torch.float64)


def check_equal(actual: object, expected: object, within: float) -> None:
    """The same shape and numbers; NaN equals NaN."""
    came, wanted = as_doubles(actual), as_doubles(expected)
    torch.testing.assert_close(came, wanted, rtol=0, atol=within, equal_nan=True)
    if not within:
        assert torch.equal(came.signbit() & ~came.isnan(), wanted.signbit() & ~wanted.isnan())


def advice_codes(answer: dict[str, Any]) -> set[str]:
    """The codes of the advice that `explain` gave."""
    return {advice["code"] for advice in answer["explanation"]["advice"]}


def normalised(values: Sequence[float], eps: float = EPS) -> list[float]:
    """(x - mean) / sqrt(biased variance + eps)."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + eps) for value in values]


def norm_gradient(values: Sequence[float], grads: Sequence[float], eps: float = EPS) -> list[float]:
    """The gradient of `normalised`: (g - mean(g) - y * mean(g * y)) / sqrt(variance + eps)."""
    count = len(values)
    outputs = normalised(values, eps)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / count
    share = sum(grad * y for grad, y in zip(grads, outputs, strict=True)) / count
    return [
        (grad - sum(grads) / count - y * share) / math.sqrt(variance + eps)
        for grad, y in zip(grads, outputs, strict=True)
    ]


def flat(shape: Sequence[int], data: Sequence[float]) -> dict[str, object]:
    """A tensor in its flat form."""
    return {"shape": list(shape), "data": list(data)}


def constant(shape: Sequence[int], value: float) -> dict[str, object]:
    """A float32 tensor of one value, in its form in base64."""
    content = struct.pack("<f", value) * math.prod(shape)
    encoded = base64.b64encode(content).decode()
    return {"shape": list(shape), "dtype": "float32", "base64": encoded}
