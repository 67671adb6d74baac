"""The search for what a client did instead: hypotheses, by how much they change."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.compute import Answer, Engine, Estimate
from app.compute.answer_shapes import answer_shapes
from app.compute.matching import Sent, matches, sent
from app.compute.shapes import output_shapes
from app.compute.tolerances import scales
from app.errors import CostLimit, InvalidRequest, LaminaError, OutputTooLarge
from app.faults import Fault
from app.layers import LayerSpec, Plan
from app.operations.check._bounds import Bounds
from app.operations.check._hypotheses import LEVELS, Hypothesis, Space
from app.operations.check._options import AFFECTS
from app.operations.check._sample import Sample
from app.scheduling import Steps
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Shape, TensorPayload

HYPOTHESIS_MS = 0.3
"""Cost of planning and comparing a hypothesis, in addition to its run and its tensors."""
PORT_MS = 0.02
"""Cost of planning, packing and comparing one of a layer's tensors, of which a layer with many
inputs has hundreds.
"""
SAMPLE_FACTOR = 4
"""How much wider the bounds are on a sample, where only the reference's are known."""


class _Spent(Exception):
    """The request's cost limit is reached."""


@dataclass(frozen=True, slots=True)
class Found:
    """What explains all of a client's numbers, and how much was searched."""

    matches: tuple[Hypothesis, ...]
    tried: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client sent: tensors by name, and the shape or shapes of its output, if it did."""

    tensors: Mapping[str, Sent]
    output_shape: Any = None


class Search:
    """One search, which counts what it runs.

    `limit_ms` bounds the estimates of all runs, and `limit_bytes` the memory of each.
    """

    def __init__(
        self,
        engine: Engine,
        spec: LayerSpec,
        call: ComputeCall,
        plan: Plan,
        wanted: Wanted,
        bounds: Bounds,
        sample: Sample | None,
        *,
        limit_ms: float,
        limit_bytes: int,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._call = call
        self._plan = plan
        self._wanted = wanted
        self._bounds = bounds
        self._sample = sample
        self._left_ms = limit_ms
        self._each_ms = hypothesis_ms(plan)
        self._limit_bytes = limit_bytes
        self._tried = 0
        self._complete = True
        self._seen = {self._key(None, plan): False}
        self._plans: dict[str, Plan | None] = {"[]": plan}

    def run(self) -> Steps[Found]:
        """Search level by level; the first that explains everything is the last."""
        names = set(self._wanted.tensors)
        space = Space(self._spec, self._call, self._plan, names)
        matching: dict[str, Hypothesis] = {}
        try:
            for level in range(1, LEVELS + 1):
                for hypothesis in space.level(level):
                    if (yield from self._explains(hypothesis)):
                        matching.setdefault(hypothesis.title, hypothesis)
                if matching:
                    break
        except _Spent:
            self._complete = False
        return Found(tuple(matching.values()), self._tried, self._complete)

    def _explains(self, hypothesis: Hypothesis) -> Steps[bool]:
        """Whether everything that the client sent matches what the hypothesis gives."""
        fault = hypothesis.fault
        if fault is not None and not self._shows(fault, hypothesis):
            return False
        spec = self._spec if fault is None else _faulty(fault, self._spec)
        if fault is not None and spec is self._spec:
            return False
        call = self._changed(self._call, hypothesis)
        try:
            call, plan, estimate = self._planned(spec, call)
        except (CostLimit, OutputTooLarge):
            self._complete = False
            return False
        except InvalidRequest:
            return False  # no client got numbers that way
        key = self._key(fault, plan)
        if key in self._seen:
            return self._seen[key]
        self._tried += 1
        self._seen[key] = False
        self._seen[key] = yield from self._gives(spec, call, plan, estimate, hypothesis)
        return self._seen[key]

    def _gives(
        self,
        spec: LayerSpec,
        call: ComputeCall,
        plan: Plan,
        estimate: Estimate,
        hypothesis: Hypothesis,
    ) -> Steps[bool]:
        """Whether a run gives what the client sent: its shapes, a sample, then everything."""
        if not self._has_shapes(spec, call, plan):
            return False
        sample = self._sample
        try:
            if sample is not None and sample.fits(hypothesis):
                part = self._changed(sample.call, hypothesis)
                answer = self._ran(spec, part)
                yield
                if not self._agrees(answer, sample):
                    return False
            if estimate.bytes > self._limit_bytes:
                self._complete = False
                return False
            self._spend(estimate.ms)
            answer = self._engine.run(spec, call, plan)
            yield
            if not self._agrees(answer, None, SAMPLE_FACTOR):
                return False
            bounds = self._bounds
            if bounds.need_scales:
                self._spend(2 * estimate.ms)
                bounds = bounds.with_scales(scales(spec, call, plan, self._engine.device))
                yield
            return self._agrees(answer, None, 1, bounds)
        except InvalidRequest:
            return False
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, LaminaError) or hypothesis.fault is None:
                raise
            return False  # an emulation that this request is too odd for

    def _planned(self, spec: LayerSpec, call: ComputeCall) -> tuple[ComputeCall, Plan, Estimate]:
        """The call and its plan; a gradient that only has other axes of length 1 is reshaped."""
        try:
            return call, *self._engine.plan(spec, call, keep=False)
        except InvalidRequest:
            gradient = getattr(call, spec.gradient)
            if not isinstance(gradient, TensorPayload):
                raise
            alone = call.model_copy(update={spec.gradient: None})
            shape = output_shapes(spec, call, self._engine.plan(spec, alone, keep=False)[0])
            if shape == gradient.shape or _squeezed(shape) != _squeezed(gradient.shape):
                raise
            call = call.model_copy(update={spec.gradient: gradient._replace(shape=shape)})
            return call, *self._engine.plan(spec, call, keep=False)

    def _shows(self, fault: Fault, hypothesis: Hypothesis) -> bool:
        """Whether the fault can make a difference to the request with the hypothesis's options."""
        options = repr(sorted(hypothesis.applied.items()))
        if options not in self._plans:
            try:
                call = self._call.model_copy(update=dict(hypothesis.applied))
                self._plans[options] = self._engine.plan(self._spec, call, keep=False)[0]
            except InvalidRequest:
                self._plans[options] = None
        plan = self._plans[options]
        return plan is None or fault.applies(plan)

    def _ran(self, spec: LayerSpec, call: ComputeCall) -> Answer:
        call, plan, estimate = self._planned(spec, call)
        self._spend(estimate.ms)
        return self._engine.run(spec, call, plan)

    def _spend(self, cost_ms: float) -> None:
        self._left_ms -= cost_ms + self._each_ms
        if self._left_ms < 0:
            raise _Spent

    @staticmethod
    def _changed(call: ComputeCall, hypothesis: Hypothesis) -> ComputeCall:
        changes: dict[str, Any] = dict(hypothesis.applied)
        if hypothesis.fault is not None and hypothesis.fault.in_dtype:
            changes["compute_dtype"] = call.dtype
        return call.model_copy(update=changes) if changes else call

    def _key(self, fault: Fault | None, plan: Plan) -> tuple[object, ...]:
        """Equal for hypotheses that cannot differ in what the client sent."""
        parts = {name.partition(".")[0] for name in self._wanted.tensors}
        idle = {"convention", "return_indices"}
        if not any(port.mapped for port in self._spec.inputs):
            idle.add("layout")
        for option, affected in AFFECTS.items():
            by_result = option not in ("index_base", "storage_order") or hasattr(
                plan.options, "return_indices"
            )
            if by_result and parts.isdisjoint(affected):
                idle.add(option)
        used = ((k, v) for k, v in vars(plan.options).items() if k not in idle)
        return (fault, *sorted(used, key=lambda item: item[0]))

    def _has_shapes(self, spec: LayerSpec, call: ComputeCall, plan: Plan) -> bool:
        shapes = answer_shapes(spec, call, plan)
        for name, tensor in self._wanted.tensors.items():
            if shapes.get(name) != tensor.payload.shape:
                return False
        wanted = self._wanted.output_shape
        return wanted is None or wanted == output_shapes(spec, call, plan)

    def _agrees(
        self,
        answer: Answer,
        sample: Sample | None,
        factor: float = SAMPLE_FACTOR,
        bounds: Bounds | None = None,
    ) -> bool:
        """Whether all that was sent, or the part in the sample, matches the answer."""
        bounds = bounds or self._bounds
        for name, ours in self._wanted.tensors.items():
            slices = None
            if sample is not None:
                slices = sample.cuts.get(name)
                if slices is None:
                    continue
            payload: TensorPayload | None = answer.get(name)
            if payload is None:
                return False
            shape = ours.payload.shape
            part = ours if sample is None else sample.part(name, ours)
            if payload.shape != part.payload.shape:
                return False
            if not matches(part, sent(payload), bounds.of(name, shape, slices, factor)).all():
                return False
        return True


def hypothesis_ms(plan: Plan) -> float:
    """The cost of a hypothesis about a request with this plan, in addition to its run."""
    return HYPOTHESIS_MS + PORT_MS * (len(plan.inputs) + len(plan.outputs))


def _squeezed(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


@cache
def _faulty(fault: Fault, spec: LayerSpec) -> LayerSpec:
    return fault.layer(spec)
