"""One scenario: a request, what a client did with it, and which of its results it sends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from tests.oracle._numbers import json_of, rounded
from tests.oracle._request import Array, Body, Request, per_axis
from tests.oracle.client import results

Entry = tuple[str, str]
"""A hypothesis in a form that compares: the fault or an empty text, and the options in order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """`options` and `fault`: what the client did. `sent`: its numbers where they are not computed.

    `kind`: `named` (the client's deviation is found), `right` (there is none), `unexplained`.
    `send`: which results it sends; all where empty. `with_`: entries that must be listed as well.
    """

    id: str
    layer: str
    body: Body
    kind: str = "named"
    options: Body = field(default_factory=dict)
    fault: str | None = None
    send: tuple[str, ...] = ()
    sent: Mapping[str, Array] | None = None
    with_: tuple[Body, ...] = ()
    alone: bool = False
    work: Any = np.float64
    check: Body = field(default_factory=dict)

    @cache  # noqa: B019 - rows live as long as the tests
    def results(self) -> dict[str, Array]:
        """What the client sends, by dotted name."""
        if self.sent is not None:
            return dict(self.sent)
        found = results(self.layer, self.body, self.options, self.fault, self.work)
        if self.send:
            missing = {name for name in self.send if name not in found}
            assert not missing, f"{self.id}: the client has no {missing}"
            found = {name: found[name] for name in self.send}
        return found

    def request(self) -> dict[str, Any]:
        """The body of the check."""
        expected: dict[str, Any] = {}
        for name, value in self.results().items():
            node, *path = name.split(".")
            if node in ("outputs",) or path[:1] == ["inputs"]:
                group = expected.setdefault(node, {}) if path[:1] == ["inputs"] else expected
                group.setdefault("inputs" if path[0] == "inputs" else node, []).append(
                    json_of(value)
                )
            elif path:
                expected.setdefault(node, {})[path[0]] = json_of(value)
            else:
                expected[node] = json_of(value)
        return {"request": json_of(dict(self.body)), "expected": expected, **self.check}


def named(id: str, layer: str, body: Body, **did: Any) -> Scenario:  # noqa: A002
    return Scenario(id=id, layer=layer, body=body, **did)


def right(id: str, layer: str, body: Body, **did: Any) -> Scenario:  # noqa: A002
    return Scenario(id=id, layer=layer, body=body, kind="right", **did)


def unexplained(id: str, layer: str, body: Body, **did: Any) -> Scenario:  # noqa: A002
    return Scenario(id=id, layer=layer, body=body, kind="unexplained", **did)


def entry(scenario: Scenario, options: Body, fault: str | None) -> Entry:
    """A hypothesis with each option written in one way."""
    written = {name: _plain(scenario, name, value) for name, value in options.items()}
    return (fault or "").partition(":")[0], repr(sorted(written.items()))


def level(options: Body, fault: str | None) -> int:
    """One option, a convention, two options, a fault, a fault and an option."""
    if fault:
        return 5 if options else 4
    if "convention" in options:
        return 2
    return 1 if len(options) == 1 else 3


def _plain(scenario: Scenario, name: str, value: Any) -> Any:
    request = Request(scenario.layer, scenario.body)
    if name == "axis":
        return value % np.ndim(scenario.body["input"])
    if name == "layout" or name not in ("stride", "padding"):
        return value
    dims = int(scenario.layer.removesuffix("d")[-1])
    if value is None:
        value = request("kernel_size") if request.convention in ("torch", "keras") else 1
    if isinstance(value, str):
        return "same_upper" if value == "same" else value
    if name == "stride":
        return per_axis(value, dims)
    return [list(p) if isinstance(p, list | tuple) else [p, p] for p in per_axis(value, dims)]


RELATIVE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def apart(scenario: Scenario, found: Mapping[str, Array]) -> float:
    """How far results are from those sent, in units of the dtype's tolerance; 0: the same."""
    dtype = str(scenario.body.get("dtype", "float32"))
    worst = 0.0
    for name, sent in scenario.results().items():
        if name not in found or found[name].shape != sent.shape:
            return np.inf
        a, b = rounded(found[name], dtype), rounded(sent, dtype)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            scale = np.abs(b) + (0 if name == "indices" else 1e-3 * _largest(b))
            error = np.where(same, 0, np.abs(a - b) / np.where(scale > 0, scale, 1e-30))
        error = np.where(np.isnan(error), np.inf, error)
        if dtype in RELATIVE and name != "indices":
            error = error / RELATIVE[dtype]
        else:
            error = np.where(error > 0, np.inf, 0)
        worst = max(worst, float(error.max(initial=0)))
    return worst


def _largest(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max(initial=0))
