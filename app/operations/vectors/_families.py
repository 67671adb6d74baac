"""Which cases a layer has: those of its family, or else those that its own file lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.operations.vectors import (
    _adaptive,
    _average,
    _batch_norm,
    _conv,
    _group_norm,
    _max,
    _trailing,
    _unpool,
)
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Body, Make, Scenario, Setting
from app.schemas.options import CONVENTIONS, Convention

SCENARIOS: Mapping[str, tuple[Scenario, ...]] = {
    "max_pool": _max.SCENARIOS,
    "avg_pool": _average.AVERAGE,
    "lp_pool": _average.LP,
    "adaptive_max_pool": _adaptive.ADAPTIVE_MAX,
    "adaptive_avg_pool": _adaptive.ADAPTIVE_AVG,
    "global_max_pool": _adaptive.GLOBAL_MAX,
    "global_avg_pool": _adaptive.GLOBAL_AVG,
    "max_unpool": _unpool.SCENARIOS,
    "batch_norm": _batch_norm.SCENARIOS,
    "sync_batch_norm": _batch_norm.for_replicas(_batch_norm.SCENARIOS),
    "instance_norm": _group_norm.INSTANCE,
    "group_norm": _group_norm.GROUP,
    "layer_norm": _trailing.LAYER,
    "rms_norm": _trailing.RMS,
    "conv": _conv.CONV,
    "relu": _conv.RELU,
}
"""By the layer's name without its number of axes."""


def scenarios(setting: Setting) -> tuple[Scenario, ...]:
    """The cases of a layer that its dtype and convention can show, those that break ports first."""
    name = setting.spec.name
    name = name[:-2] if name[-2:] in ("1d", "2d", "3d") else name
    listed = SCENARIOS.get(name) or _from_own_cases(setting)
    others = CONVENTIONS if setting.convention is None else ()
    defaults = [_defaults_of(one, listed[0]) for one in others if one != setting.used]
    return tuple(one for one in (*listed, *defaults) if one.fits(setting))


def _defaults_of(convention: Convention, first: Scenario) -> Scenario:
    def body(draw: Draw) -> Body:
        return {**first.body(draw), "convention": convention}

    title = {"onnx": "ONNX"}.get(convention, convention.capitalize())
    return Scenario(
        f"defaults-of-{convention}",
        f"What is not named in the case has the default of {title}.",
        body,
        ("convention",),
        first.exact,
        first.steady,
        first.fits,
    )


def _from_own_cases(setting: Setting) -> tuple[Scenario, ...]:
    """The cases of a layer that has no scenarios yet, with drawn numbers."""
    spec = setting.spec
    names = {port.name: port for port in spec.inputs}

    def make(body: Mapping[str, Any]) -> Make:
        def drawn(draw: Draw) -> Body:
            found: dict[str, Any] = {}
            for name, value in body.items():
                port = names.get(name)
                if port is None:
                    found[name] = value
                elif port.many:
                    found[name] = [draw.numbers(*np.shape(one)) for one in value]
                else:
                    found[name] = np.array(value) if port.dtype else draw.numbers(*np.shape(value))
            found.pop("dtype", None)
            found.pop("explain", None)
            sent = found.pop(spec.gradient, None)
            return {**found, **({"gradient": "ones"} if sent == "ones" else {})}

        return drawn

    own = spec.own_cases or spec.cases[:1]
    return tuple(
        Scenario(
            case.name.replace(" ", "-").replace("_", "-").replace(",", ""),
            f"Options: {case.name}.",
            make(case.body),
            exact=False,
            steady=False,
        )
        for case in own
    )
