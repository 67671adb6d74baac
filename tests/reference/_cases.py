"""The product: every layer, option, layout, dtype, kind of input, and kind of gradient, in order.

For each layer, options are combined with kinds of input, layouts, and dtypes. Convention, shape,
batching, and gradient rotate at periods of their own, so that every pairing occurs.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.reference._inputs import (
    FINITE,
    GRADIENTS,
    INPUTS,
    INTEGER_INPUTS,
    INTEGERS,
    gradient,
    numbers,
)
from tests.reference._options import OPTIONS, WHOLE, Options, shapes_of
from tests.reference._requests import CONVENTIONS
from tests.reference._tensors import others, replicas, trailing
from tests.reference._windows import Refused
from tests.reference.layers import family_of, output_shape

LAYOUTS = ("channels_first", "channels_last")
FLOATS = ("float64", "float32")
HALVES = ("float16", "bfloat16")
TURNS = {"max_pool": 3, "avg_pool": 3, "lp_pool": 3, "conv": 2, "batch_norm": 2, "max_unpool": 3}
"""Families with many options use only every n-th kind of input with each, in rotation."""
UP_TO_THE_LARGEST = ("relu", "rms_norm", "max_pool", "global_max_pool", "max_unpool")
"""Families whose results stay finite for inputs up to the dtype's largest number."""
PART = 5
"""The brief run takes every n-th case; coprime to all rotation periods."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and a description of what it is made of."""

    layer: str
    body: Mapping[str, Any]
    made_of: str

    @property
    def dtype(self) -> str:
        return str(self.body["dtype"])

    def __str__(self) -> str:
        sent = {name: _short(value) for name, value in self.body.items()}
        return f"{self.layer} {self.made_of}: {sent}"


def _short(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= 32 else f"array{list(value.shape)}"
    if isinstance(value, list):
        return [_short(item) for item in value]
    return value


def cases(layer: str, part: int = 1) -> Iterator[Case]:
    """The layer's cases, the same on each call; with `part`, only every `part`-th case."""
    number = 0
    for turn, options in enumerate(OPTIONS[family_of(layer)]):
        for (dtype, kind), layout in itertools.product(_kinds(layer, turn), LAYOUTS):
            if number % part == 0:
                yield _case(layer, number, turn, dict(options), dtype, kind, layout)
            number += 1


def case(layer: str, number: int) -> Case:
    """A single case, for inspection."""
    return next(itertools.islice(cases(layer), number, None))


def _kinds(layer: str, turn: int) -> Iterator[tuple[str, str]]:
    """Dtypes and kinds of input to combine with options number `turn`."""
    family = family_of(layer)
    every = TURNS.get(family, 1)
    kinds = tuple(kind for kind in INPUTS if kind != "largest" or family in UP_TO_THE_LARGEST)
    for dtype in FLOATS:
        finite = family == "conv" and dtype == "float32"
        for kind in (FINITE if finite else kinds)[turn % every :: every]:
            yield dtype, kind
    for place, dtype in enumerate(HALVES):
        for kind in kinds[(turn + place) % 4 :: 4 * every]:
            if family != "conv" or kind in FINITE:
                yield dtype, kind
    if family == "max_pool":
        yield from [*itertools.product(INTEGERS, INTEGER_INPUTS)][turn % 3 :: 3]


def _case(
    layer: str, number: int, turn: int, options: Options, dtype: str, kind: str, layout: str
) -> Case:
    family, dims = family_of(layer), int(layer[-2]) if layer.endswith("d") else 0
    shapes = shapes_of(family, dims)
    shape = shapes[number % len(shapes)]
    gradients = GRADIENTS[number // 7 % len(GRADIENTS)]
    convention = CONVENTIONS[(number // 2 + turn) % 4]
    body = {"dtype": dtype, "layout": layout, "convention": convention, **options}
    body["batched"] = family in ("relu", "layer_norm", "rms_norm") or number % 3 != 1
    if "channels" in body:
        shape = (shape[0], body.pop("channels"), *shape[2:])
    body |= _for_shape(body, shape)
    sent = shape
    if family not in ("relu", "layer_norm", "rms_norm"):
        sent = _sent(shape, layout, batched=body["batched"])
    body["input"] = numbers(kind, sent, dtype, layer, number)
    if family in ("relu", "layer_norm", "rms_norm"):
        body |= trailing(family, body, number)
    else:
        body |= others(family, shape, body, number)
    made_of = f"case {number} ({kind}, gradient {gradients})"
    if family == "sync_batch_norm":
        body |= replicas(body, kind, gradients, number)
        del body["input"]
    elif dtype not in INTEGERS:
        with contextlib.suppress(Refused):
            body["grad_output"] = gradient(gradients, output_shape(layer, body), dtype, number)
    return Case(layer, body, made_of)


def _for_shape(body: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Options that depend on the shape, with lists of three cut to the layer's axes."""
    dims, found = len(shape) - 2, {}
    for name, value in body.items():
        if value == WHOLE and name == "kernel_size":
            found[name] = list(shape[2:])
        elif value == WHOLE and name == "num_groups":
            found[name] = shape[1]  # type: ignore[assignment]
        elif isinstance(value, list) and len(value) == 3 and name != "kernel":
            found[name] = value[-dims:]
    return found


def _sent(shape: tuple[int, ...], layout: str, *, batched: bool) -> tuple[int, ...]:
    if layout == "channels_last" and len(shape) > 2:
        shape = (shape[0], *shape[2:], shape[1])
    return shape if batched else shape[1:]
