"""The work of a computation, counted: the same on an idle machine and on a busy one."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PYTHON_CALL_NS = 100
OPERATOR_NS = 1000
ELEMENT_NS = 0.15
TAP_NS = 0.5
MULTIPLY_ADD_NS = 0.03
"""Each about the least that was ever measured, so that work counted is time from below."""


class _Operators(TorchDispatchMode):
    """Adds up what torch's operators do, those of gradients too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ns = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ns += OPERATOR_NS
        if not func.is_view:
            tensors = [
                leaf
                for leaf in tree_leaves((args, kwargs, result))
                if isinstance(leaf, torch.Tensor)
            ]
            self.ns += ELEMENT_NS * sum(tensor.numel() for tensor in tensors)
            self.ns += _windows_ns(func.overloadpacket.__name__, args, result)
        return result


def _windows_ns(operator: str, args: Sequence[Any], result: Any) -> float:
    """What looking at every element of every window takes, in the forward pass."""
    if operator.startswith(("max_pool", "avg_pool")) and not operator.endswith("backward"):
        output = result[0] if isinstance(result, tuple) else result
        dims = int(operator.partition("pool")[2][0])
        kernel = args[1] if len(args[1]) == dims else args[1] * dims
        return TAP_NS * float(output.numel() * math.prod(kernel))
    if operator == "convolution":
        weight = args[1]
        return MULTIPLY_ADD_NS * float(result.numel() * weight[0].numel())
    return 0.0


def counted_ms(work: Callable[[], object]) -> float:
    """The time that the work takes from below, by what it does: it runs twice."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with _Operators() as operators:
        work()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return float(operators.ns + PYTHON_CALL_NS * calls) / 1e6


def counted_lines(work: Callable[[], object]) -> int:
    """How many lines of Python the work runs through."""
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
