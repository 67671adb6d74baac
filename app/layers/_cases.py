"""Small, deterministic requests that cover a layer's options, in the form of a client's JSON."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

Body = Mapping[str, Any]
SIDES = {1: (6,), 2: (5, 4), 3: (4, 3, 2)}
"""Spatial lengths of the images in cases."""


class Case(NamedTuple):
    """A valid request to a layer, and what it covers."""

    name: str
    body: Body


def numbers(*shape: int, positive: bool = False) -> Any:
    """Nested lists of odd eighths: no zeros, no ties, unordered, and exact in every float dtype."""
    count = math.prod(shape)
    step = next(s for s in range(round(0.62 * count), 0, -1) if math.gcd(s, count) == 1)
    order = torch.arange(count) * step % count - (0 if positive else count // 2)
    return ((2 * order + 1) / 8).view(shape).tolist()


def image(dims: int, *, positive: bool = False) -> Any:
    """Two samples with two channels each."""
    return numbers(2, 2, *SIDES[dims], positive=positive)


def with_options(base: Body, *choices: Body) -> tuple[Case, ...]:
    """The base request, and the base with each choice of options, named after the choice."""
    return (Case("plain", base), *(Case(_name(choice), {**base, **choice}) for choice in choices))


def _name(choice: Body) -> str:
    return ", ".join(f"{name} {value}"[:40] for name, value in choice.items())


def common_cases(
    base: Body, mapped: Mapping[str, bool], presets: Mapping[Any, Mapping[str, Any]]
) -> Iterator[Case]:
    """The channels-first base request under every convention, in both layouts, and unbatched.

    `mapped` maps the names of feature-map fields to whether they are lists of tensors.
    """
    last = _each(base, mapped, lambda tensor: tensor.movedim(1, -1))
    for convention, preset in presets.items():
        sent = last if preset.get("layout") == "channels_last" else base
        yield Case(f"convention {convention}", {**sent, "convention": convention})
    yield Case("channels_first", {**base, "layout": "channels_first"})
    yield Case("channels_last", {**last, "layout": "channels_last"})
    if mapped:
        one = _each(base, mapped, lambda tensor: tensor[0])
        yield Case("one sample", {**one, "batched": False})


def _each(
    body: Body, mapped: Mapping[str, bool], change: Callable[[torch.Tensor], torch.Tensor]
) -> Body:
    """Apply the change to the body's feature maps; a gradient of "ones" fits any shape."""

    def changed(value: Any) -> Any:
        return change(torch.tensor(value)).tolist()

    fields = {name: many for name, many in mapped.items() if isinstance(body.get(name), list)}
    return {
        **body,
        **{
            name: [changed(item) for item in body[name]] if many else changed(body[name])
            for name, many in fields.items()
        },
    }
