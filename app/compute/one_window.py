"""The explanation of single windows of a pooling, wherever they are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from app.compute.load import Loader
from app.layers import LayerSpec, Plan
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Shape


class _OneWindow:
    """An axis of which only one window is left."""

    output = 1

    def __init__(self, axis: Any, index: int) -> None:
        self._axis = axis
        self._index = index

    def taps(self, index: int) -> range:  # noqa: ARG002
        """The coordinates of that window."""
        taps: range = self._axis.taps(self._index)
        return taps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._axis, name)


def window_cards(
    spec: LayerSpec, call: ComputeCall, plan: Plan, device: torch.device, indices: Sequence[Shape]
) -> list[dict[str, Any]]:
    """The card of the window behind each output index, in the layout in which it is sent.

    Empty for layers without windows.
    """
    if not spec.described_windows(plan) or not indices:
        return []
    x = Loader(spec, call, plan, device).inputs()["input"].detach().cpu()
    cards = []
    for index in indices:
        sample, channel, *place = _canonical(index, plan, call)
        place = place or [0] * len(plan.axes)
        axes = tuple(map(_OneWindow, plan.axes, place))
        one = replace(plan, axes=axes, outputs={"output": (1, 1, *[1] * len(axes))})
        part = {"input": x[sample : sample + 1, channel : channel + 1]}
        windows = spec.explain(part, {}, one).windows or ()
        for window in windows:
            card = window.model_copy(update={"output": tuple(index)})
            cards.append(card.model_dump(exclude_none=True))
    return cards


def _canonical(index: Shape, plan: Plan, call: ComputeCall) -> list[int]:
    """An index in the order (N, C, *spatial)."""
    full = list(index) if call.batched else [0, *index]
    if plan.options.layout == "channels_last" and len(full) > 2:
        full.insert(1, full.pop())
    return full
