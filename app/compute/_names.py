"""Tensor names: dotted paths such as `running_stats.mean`, `inputs.0`, `replicas.1.output`.

A number in a path is an index into a port that takes or returns a list of tensors.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TypeVar

from app.layers import LayerSpec, Port
from app.schemas.calls import ComputeCall
from app.schemas.tensors import TensorPayload

T = TypeVar("T")


def sent_tensors(spec: LayerSpec, call: ComputeCall) -> dict[str, TensorPayload]:
    """The request's input tensors by name."""
    sent: dict[str, TensorPayload] = {}
    for port in spec.inputs:
        value = getattr(call, port.name)
        if port.many:
            sent |= {f"{port.name}.{index}": payload for index, payload in enumerate(value)}
        elif value is not None:
            sent[port.name] = value
    return sent


def with_port(
    ports: tuple[Port, ...], named: Mapping[str, T]
) -> Iterator[tuple[tuple[str, T], Port]]:
    """Yield each `(name, value)` item with the port it belongs to."""
    by_name = _by_name(ports)
    for item in named.items():
        name = item[0]
        yield item, by_name[name if name in by_name else _without_numbers(name)]


def results(spec: LayerSpec, names: Iterable[str]) -> tuple[str, ...]:
    """The names of the output or outputs, in order."""
    if not spec.many:
        return (spec.result,)
    return tuple(name for name in names if name.startswith(f"{spec.result}."))


def pointer(name: str) -> str:
    """Convert a name to a pointer into the request."""
    return name.replace(".", "/")


@cache
def _by_name(ports: tuple[Port, ...]) -> Mapping[str, Port]:
    return {port.name: port for port in ports}


def _without_numbers(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())
