"""The explanation of one run: axes, windows, advice."""

from typing import Any

import torch

from app.compute._names import results
from app.compute._tensors import outward_shape
from app.compute.comparison import RELATIVE_TOLERANCE, is_close
from app.layers import LayerSpec, Plan, Tensors
from app.schemas.answers import Advice, Explanation
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Shape

PRECISION_LOSS = Advice(
    code="precision-loss",
    message="In this dtype, the output differs from that in float64 by more than rounding.",
    suggestion='Send `compute_dtype: "float64"`, or center the input first.',
)


def explained(
    spec: LayerSpec, call: ComputeCall, plan: Plan, inputs: Tensors, outputs: Tensors
) -> dict[str, Any]:
    """Build the `explanation` of an answer."""
    host = {name: tensor.detach().cpu() for name, tensor in inputs.items()}
    notes = spec.explain(host, outputs, plan)
    windows = notes.windows
    if windows is not None:
        windows = tuple(
            window.model_copy(update={"output": _sent_index(window.output, plan, call)})
            for window in windows
        )
    lost = _loses_precision(spec, call, plan, host, outputs)
    return Explanation(
        axes=tuple(axis.card() for axis in plan.axes),
        windows=windows,
        windows_truncated=notes.windows_truncated,
        advice=(*notes.advice, PRECISION_LOSS) if lost else notes.advice,
    ).model_dump(exclude_none=True)


def _loses_precision(
    spec: LayerSpec, call: ComputeCall, plan: Plan, host: Tensors, outputs: Tensors
) -> bool:
    """Whether the output differs from the float64 result by more than the dtype's rounding."""
    if call.dtype not in RELATIVE_TOLERANCE:
        return False
    doubles = {n: t.double() if t.is_floating_point() else t for n, t in host.items()}
    with torch.no_grad():
        exact = spec.run(doubles, plan)
    return not all(
        is_close(outputs[name].detach().cpu(), exact[name], call.dtype)
        for name in results(spec, outputs)
    )


def _sent_index(index: Shape, plan: Plan, call: ComputeCall) -> Shape:
    """The index of an output element in the requested layout."""
    rank = len(plan.outputs["output"])
    return outward_shape(index[:rank], plan.options.layout, call.batched)
