"""How far a correct implementation may be from the reference: one tolerance for each result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from app.compute._names import results
from app.compute.load import Loader
from app.compute.pack import laid_out
from app.layers import LayerSpec, Plan, Sums, Terms
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES

Doubles = npt.NDArray[np.float64]
RTOL: Mapping[str, float] = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
"""Default relative tolerance by dtype; integers are exact."""
UNITS: Mapping[str, float] = dict.fromkeys(RTOL, 2.0 ** (-24)) | {"float64": 2.0**-53}
"""Unit roundoff of the dtype that a client computes in: half types are computed in float32."""


class Tolerance(NamedTuple):
    """An element matches the reference within `atol + rtol * |reference|`, or within `ulp` units
    in the last place. `terms` is the number of terms in the longest sum.
    """

    atol: float
    rtol: float
    ulp: int
    terms: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The length of a result's longest sum, and the size of its terms, element by element, in the
    layout in which the result is sent; it broadcasts to the result's shape.
    """

    terms: int
    size: Doubles

    def tolerance(self, rtol: float) -> Tolerance:
        """The tolerance of the whole result."""
        return Tolerance(rtol * float(self.size.max(initial=0.0)), rtol, 0, self.terms)


ONE = Scale(1, np.zeros(()))
"""The scale of results that sum nothing."""


def tolerances(
    spec: LayerSpec, call: ComputeCall, plan: Plan, device: torch.device
) -> dict[str, Tolerance]:
    """The default tolerance of each result that sums terms, by its name in an answer.

    Others have `Tolerance(0, rtol, 0, 1)`; indices and integers are exact.
    """
    rtol = RTOL.get(call.dtype, 0.0)
    return {name: one.tolerance(rtol) for name, one in scales(spec, call, plan, device).items()}


def scales(
    spec: LayerSpec, call: ComputeCall, plan: Plan, device: torch.device
) -> dict[str, Scale]:
    """The scale of each result that sums terms, from one more run, in float64."""
    if not DTYPES[call.dtype].is_float:
        return {}
    wide = call.model_copy(update={"compute_dtype": "float64"})
    loader = Loader(spec, wide, plan, device)
    differentiated = getattr(call, spec.gradient) is not None
    inputs = loader.inputs()
    with torch.no_grad():
        outputs = spec.run(inputs, plan)
        gradients = None
        first = results(spec, outputs)
        if differentiated:
            given = loader.output_gradients(tuple(outputs[name] for name in first))
            gradients = dict(zip(first, given, strict=True))
        dtype = call.dtype
        sums = Sums(spec.run, inputs, outputs, gradients, plan, RTOL[dtype], UNITS[dtype])
        return _packed(spec, spec.terms(sums), plan, call)


def _packed(
    spec: LayerSpec, terms: Mapping[str, Terms], plan: Plan, call: ComputeCall
) -> dict[str, Scale]:
    prefix = "gradients."
    own = {name: one.size for name, one in terms.items() if not name.startswith(prefix)}
    of_inputs = {
        name.removeprefix(prefix): one.size
        for name, one in terms.items()
        if name.startswith(prefix) and name.removeprefix(prefix) in plan.inputs
    }
    sizes = laid_out(spec.outputs, own, plan, call)
    sizes |= {
        f"{prefix}{name}": size
        for name, size in laid_out(spec.inputs, of_inputs, plan, call).items()
    }
    return {name: Scale(max(1, terms[name].length), _finite(size)) for name, size in sizes.items()}


def _finite(size: torch.Tensor) -> Doubles:
    """What is not finite allows no error: it is compared for equality."""
    array: Any = size.detach().double().cpu().numpy()
    finite: Doubles = np.nan_to_num(array, copy=True, nan=0.0, posinf=0.0, neginf=0.0)
    return finite
