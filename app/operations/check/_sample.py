"""A part of the request on which a hypothesis is tried first, where the layer allows one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.compute.matching import Sent, sent
from app.layers import LayerSpec, Plan, Port
from app.operations.check._hypotheses import Hypothesis
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES, Shape, TensorPayload

SAMPLE_ELEMENTS = 2048
"""Enough elements of the input to tell hypotheses apart; larger inputs are cut."""
READS_OTHERWISE = frozenset({"layout", "axis", "weight_layout"})
"""Options that change which axes mean what, so that a cut would be another one."""
WHOLE_FAULTS = frozenset({"loss-mean", "loss-mean-over-batch", "statistics-of-all-channels"})
"""Faults whose result depends on everything that was sent."""
Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The cut request, the results that can be compared in it, and how each is cut."""

    call: ComputeCall
    cuts: Mapping[str, Slices]
    parts: dict[str, Sent] = field(default_factory=dict)

    def part(self, name: str, whole: Sent) -> Sent:
        """The part of a result that was sent which the sample has."""
        if name not in self.parts:
            self.parts[name] = sent(cut_payload(whole.payload, self.cuts[name]))
        return self.parts[name]

    def fits(self, hypothesis: Hypothesis) -> bool:
        """Whether the hypothesis does to the part what it does to the whole."""
        fault = hypothesis.fault
        whole = fault is not None and fault.name in WHOLE_FAULTS
        return not whole and READS_OTHERWISE.isdisjoint(hypothesis.options)


def sample_of(
    spec: LayerSpec,
    call: ComputeCall,
    plan: Plan,
    ranks: Mapping[str, int],
    mismatch: tuple[str, Shape] | None,
) -> Sample | None:
    """Cut the batch, the channels, or both; around the first mismatch, given by name and index.
    `ranks` are those of the results that the client sent.
    """
    total = math.prod(plan.inputs.get("input", ()))
    if total <= 2 * SAMPLE_ELEMENTS or not spec.independent:
        return None
    if "rows" in spec.independent:
        return _rows(spec, call, plan, ranks, mismatch)
    place = _place(spec, plan, call, mismatch) if "indices" not in ranks else (0, 0)
    batch, channels = _lengths(spec, plan, call, total, has_indices="indices" in ranks)
    cut = _Cut(
        plan.options.layout == "channels_last",
        call.batched,
        _span(plan.inputs["input"][0], batch, place[0]),
        _span(plan.inputs["input"][1], channels, place[1]),
        vectors="batch" not in spec.independent,
    )
    if batch is None and channels is None:
        return None
    found = {name: cut.of(_port(spec, name), rank) for name, rank in ranks.items()}
    cuts = {name: slices for name, slices in found.items() if slices is not None}
    return Sample(_cut_call(spec, call, cut), cuts) if cuts else None


def _rows(
    spec: LayerSpec,
    call: ComputeCall,
    plan: Plan,
    ranks: Mapping[str, int],
    mismatch: tuple[str, Shape] | None,
) -> Sample | None:
    """Cut the first axis of a layer that treats each of its rows alone."""
    shape = plan.inputs["input"]
    if len(plan.options.normalized_shape) == len(shape) or shape[0] < 2:
        return None
    by_row = {"gradients.input", *(port.name for port in spec.outputs)}
    start = mismatch[1][0] if mismatch is not None and mismatch[0] in by_row else 0
    cut = (_span(shape[0], max(1, shape[0] * SAMPLE_ELEMENTS // math.prod(shape)), start),)
    changed = {
        name: cut_payload(payload, cut)
        for name in ("input", spec.gradient)
        if isinstance(payload := getattr(call, name), TensorPayload)
    }
    cuts = {name: cut for name in ranks if name in by_row}
    return Sample(call.model_copy(update=changed), cuts) if cuts else None


def _lengths(
    spec: LayerSpec, plan: Plan, call: ComputeCall, total: int, *, has_indices: bool
) -> tuple[int | None, int | None]:
    """How many samples and channels are left; None: all."""
    samples, channels = plan.inputs["input"][:2]
    batch = None
    if "batch" in spec.independent and call.batched and samples > 1:
        batch = max(1, samples * SAMPLE_ELEMENTS // total)
        total = total // samples * batch
    if "channels" in spec.independent and not has_indices and total > 2 * SAMPLE_ELEMENTS:
        return batch, max(1, channels * SAMPLE_ELEMENTS // total)
    return batch, None


def _span(length: int, left: int | None, place: int) -> slice:
    if left is None:
        return slice(None)
    start = max(0, min(place, length - left))
    return slice(start, start + left)


def _place(
    spec: LayerSpec, plan: Plan, call: ComputeCall, mismatch: tuple[str, Shape] | None
) -> tuple[int, int]:
    """The sample and channel of the first mismatch, or the first ones."""
    if mismatch is None:
        return 0, 0
    name, index = mismatch
    port = _port(spec, name)
    if not port.mapped:
        return (0, index[0]) if "batch" not in spec.independent and index else (0, 0)
    full = index if call.batched else (0, *index)
    if len(full) < 2:
        return 0, 0
    last = plan.options.layout == "channels_last" and len(full) > 2
    return full[0], full[-1] if last else full[1]


def _port(spec: LayerSpec, name: str) -> Port:
    ports = spec.outputs
    if name.startswith("gradients."):
        ports, name = spec.inputs, name.removeprefix("gradients.")
    return next(port for port in ports if port.name == name)


@dataclass(frozen=True, slots=True)
class _Cut:
    last: bool
    batched: bool
    batch: slice
    channels: slice
    vectors: bool
    """Whether vectors have one entry per channel, and are cut like the channels."""

    def of(self, port: Port, rank: int) -> Slices | None:
        """The slices of a tensor; None: it cannot be cut."""
        if not port.mapped:
            if not self.vectors:
                return None
            return (self.channels,) if rank == 1 else ()
        whole = slice(None)
        full = rank + (not self.batched)
        if self.last and full > 2:
            slices = (self.batch, *(whole,) * (full - 2), self.channels)
        else:
            slices = (self.batch, self.channels, *(whole,) * (full - 2))
        return slices if self.batched else slices[1:]


def _cut_call(spec: LayerSpec, call: ComputeCall, cut: _Cut) -> ComputeCall:
    """The request with its tensors cut."""
    changed: dict[str, Any] = {}
    for port in spec.inputs:
        payload = getattr(call, port.name)
        if isinstance(payload, TensorPayload):
            slices = cut.of(port, len(payload.shape))
            if slices is not None:
                changed[port.name] = cut_payload(payload, slices)
    gradient = getattr(call, spec.gradient)
    if isinstance(gradient, TensorPayload):
        slices = cut.of(spec.outputs[0], len(gradient.shape))
        if slices is not None:
            changed[spec.gradient] = cut_payload(gradient, slices)
    return call.model_copy(update=changed)


def cut_payload(payload: TensorPayload, slices: Slices) -> TensorPayload:
    """A part of a tensor, copied."""
    elements = np.frombuffer(payload.data, DTYPES[payload.dtype].storage).reshape(payload.shape)
    part: Any = np.array(elements[slices], order="C")
    return TensorPayload(payload.dtype, part.shape, memoryview(part.reshape(-1)))
