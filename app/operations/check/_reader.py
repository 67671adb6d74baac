"""Reads a check: the request, the client's results and bounds; and answers it in steps."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from app.compute import Answer, Estimate
from app.compute.answer_shapes import answer_shapes
from app.compute.index_ties import ties
from app.compute.matching import Sent, sent
from app.compute.one_window import window_cards
from app.compute.shapes import output_shapes
from app.compute.tolerances import scales
from app.errors import InvalidRequest
from app.layers import LayerSpec, Plan, compute_model, tensor_fields
from app.operations._spec import Context, Fields, Task
from app.operations._validation import validated
from app.operations.check._bounds import Bounds
from app.operations.check._expected import Expected, check_names, expected_of, result_fields
from app.operations.check._hypotheses import Space
from app.operations.check._messages import message, more
from app.operations.check._report import (
    compared,
    of_other_shape,
    shape_card,
    without_reference,
)
from app.operations.check._sample import SAMPLE_ELEMENTS, sample_of
from app.operations.check._search import Found, Search, Wanted, hypothesis_ms
from app.scheduling import Steps
from app.schemas.calls import ComputeCall
from app.schemas.check import CheckCall, DiagnosisCard, TensorCard
from app.schemas.tensors import DTYPES, Field, GroupField, Shape, TensorPayload

REFERENCE_RUNS = 4
"""The reference itself, the sizes of its sums, and the windows of what does not match."""
COMPARED_BYTES = 64
"""Memory for comparing one element: it and the reference's in float64, and what is between."""
SEARCH_FACTOR = 16
"""How much more memory than the reference a hypothesis may take: some make more output."""
LEAST_BYTES = 32 << 20
"""What a hypothesis may take at least."""
NO_GRADIENT = "`grad_output` has the shape of your output, so the reference has no gradients."


@dataclass(frozen=True, slots=True)
class Checked:
    """A validated check. `call` has everything that the client sent; `reference` is the part of it
    that the reference runs, and `plan` the plan of that.
    """

    call: ComputeCall
    reference: ComputeCall
    plan: Plan
    expected: Expected
    bounds: Bounds
    limit_ms: float
    limit_bytes: int


class CheckReader:
    """Reads the checks of one layer."""

    def __init__(self, context: Context, spec: LayerSpec) -> None:
        most = context.engine.limits.requests.max_replicas
        self.tensors: Mapping[str, Field] = {
            "request": GroupField(tensor_fields(spec), sets_dtype=True),
            "expected": result_fields(spec, most),
        }
        self._engine = context.engine
        self._spec = spec
        self._model = compute_model(spec)

    def read(self, fields: Fields) -> Task:
        """Turn the check into a task that runs the reference, and where it differs, the search.

        Raises:
            InvalidRequest: with pointers into `#/request` and `#/expected`.

        """
        check = validated(CheckCall, fields)
        with _pointing_into("request"):
            call = validated(self._model, check.request)
        expected = expected_of(check.expected, call.dtype)
        call = self._as_needed(call, expected)
        reference, plan, estimate = self._planned(call, expected)
        known = answer_shapes(self._spec, reference, plan)
        shapes = ("output_shapes",) if self._spec.many else ("output_shape",)
        if not DTYPES[call.dtype].is_float:
            known = {n: shape for n, shape in known.items() if not n.startswith("gradients.")}
        check_names(expected, (*known, *shapes))
        if _has_gradients(expected):
            self._check_gradient(call)
        limits = self._engine.limits.results
        compared_bytes = COMPARED_BYTES * sum(
            math.prod(payload.shape) for payload in expected.tensors.values()
        )
        most = max(SEARCH_FACTOR * estimate.bytes, LEAST_BYTES)
        room = limits.max_output_bytes - compared_bytes
        limit_bytes = max(estimate.bytes, min(most, room))
        checked = Checked(
            call,
            reference,
            plan,
            expected,
            Bounds(call.dtype, check.rtol, check.atol, check.ulp, {}),
            limits.max_cost_ms - REFERENCE_RUNS * estimate.ms,
            limit_bytes,
        )
        return Task(
            Estimate(
                min(self._most_ms(checked, estimate), limits.max_cost_ms),
                limit_bytes + compared_bytes,
                0,
            ),
            partial(self._answer, checked),
            dtype=call.dtype,
            is_brief=False,
        )

    def _as_needed(self, call: ComputeCall, expected: Expected) -> ComputeCall:
        """The call in float64, of nothing but what was sent."""
        parts = {name.partition(".")[0] for name in expected.tensors}
        changes: dict[str, Any] = {"explain": False}
        if DTYPES[call.dtype].is_float:
            changes["compute_dtype"] = "float64"
        if "return_indices" in self._spec.options.model_fields:
            changes["return_indices"] = "indices" in parts
        if not _has_gradients(expected):
            changes[self._spec.gradient] = None
        return call.model_copy(update=changes)

    def _check_gradient(self, call: ComputeCall) -> None:
        """Refuse gradients of a request that has none."""
        name = self._spec.gradient
        if getattr(call, name) is None:
            detail = (
                f"{name}: missing; gradients were sent in `expected`. Send the gradient of the "
                'loss in the output, or "ones"'
            )
            raise InvalidRequest.at(f"request/{name}", "missing", detail)

    def _planned(self, call: ComputeCall, expected: Expected) -> tuple[ComputeCall, Plan, Estimate]:
        """The call that the reference runs: without a gradient that only fits what was sent."""
        with _pointing_into("request"):
            ours, gradient = expected.tensors.get("output"), getattr(call, self._spec.gradient)
            if isinstance(gradient, TensorPayload) and ours and gradient.shape == ours.shape:
                alone = call.model_copy(update={self._spec.gradient: None})
                plan, estimate = self._engine.plan(self._spec, alone)
                if output_shapes(self._spec, alone, plan) != gradient.shape:
                    return alone, plan, estimate
            return call, *self._engine.plan(self._spec, call)

    def _most_ms(self, checked: Checked, estimate: Estimate) -> float:
        """What a search through everything is estimated at."""
        names = set(checked.expected.tensors)
        count = Space(self._spec, checked.call, checked.plan, names).count()
        total = math.prod(checked.plan.inputs.get("input", ()))
        part = 1.0
        if self._spec.independent:
            part = min(1.0, SAMPLE_ELEMENTS / max(1, total))
        return REFERENCE_RUNS * estimate.ms + count * (
            hypothesis_ms(checked.plan) + part * estimate.ms
        )

    def _answer(self, checked: Checked) -> Steps[Answer]:
        """Compare, and where something differs, search."""
        spec, call, plan, device = (
            self._spec,
            checked.reference,
            checked.plan,
            self._engine.device,
        )
        with _pointing_into("request"):
            answer = self._engine.run(spec, call, plan)
        yield
        bounds = checked.bounds
        if bounds.need_scales:
            bounds = bounds.with_scales(scales(spec, call, plan, device))
            yield
        cards = [self._card(checked, bounds, name, answer) for name in checked.expected.tensors]
        for name, shape in checked.expected.shapes.items():
            cards.append(shape_card(name, shape, output_shapes(spec, call, plan)))
        match = all(card.match for card in cards)
        found = Found((), 0, complete=True)
        if not match:
            yield
            found = yield from self._search(checked, bounds, cards)
        return {
            "match": match,
            "tensors": [card.model_dump(exclude_none=True) for card in cards],
            "diagnosis": self._diagnosis(checked, cards, found),
            "searched": {"hypotheses": found.tried, "complete": found.complete},
        }

    def _card(self, checked: Checked, bounds: Bounds, name: str, answer: Answer) -> TensorCard:
        spec, call, plan, device = (
            self._spec,
            checked.reference,
            checked.plan,
            self._engine.device,
        )
        payload, reference = checked.expected.tensors[name], answer.get(name)
        if reference is None:
            return without_reference(name, payload.shape, NO_GRADIENT)
        if payload.shape != reference.shape:
            return of_other_shape(name, payload.shape, reference.shape)
        ours = sent(payload)
        is_result = name in ("output", "indices")
        return compared(
            name,
            ours,
            sent(reference),
            bounds.of(name, payload.shape),
            bounds.tolerance(name) if ours.is_float else None,
            ties=partial(ties, spec, call, plan, payload, reference, device)
            if name == "indices"
            else None,
            cards=partial(window_cards, spec, call, plan, device) if is_result else None,
        )

    def _search(self, checked: Checked, bounds: Bounds, cards: list[TensorCard]) -> Steps[Found]:
        spec, call, plan = self._spec, checked.call, checked.plan
        tensors: dict[str, Sent] = {}
        first: tuple[str, Shape] | None = None
        for card in sorted(cards, key=lambda card: card.match):
            if card.name not in checked.expected.tensors:
                continue
            tensors[card.name] = sent(checked.expected.tensors[card.name])
            if first is None and card.first_mismatch is not None:
                first = card.name, card.first_mismatch.index
        shapes = checked.expected.shapes
        wanted = Wanted(tensors, next(iter(shapes.values()), None))
        ranks = {name: tensor.numbers.ndim for name, tensor in tensors.items()}
        search = Search(
            self._engine,
            spec,
            call,
            plan,
            wanted,
            bounds,
            sample_of(spec, call, plan, ranks, first),
            limit_ms=checked.limit_ms,
            limit_bytes=checked.limit_bytes,
        )
        return (yield from search.run())

    def _diagnosis(
        self, checked: Checked, cards: list[TensorCard], found: Found
    ) -> list[dict[str, Any]]:
        explains = tuple(card.name for card in cards if not card.match)
        options, dtype = checked.plan.options, checked.call.dtype
        return [
            DiagnosisCard(
                fault=None if one.fault is None else one.fault.name,
                options=dict(one.options),
                explains=explains,
                message=message(
                    self._spec, dtype, options, one, [o for o in found.matches if o is not one]
                ),
                more=more(one),
            ).model_dump(exclude={"fault"} if one.fault is None else None)
            for one in found.matches
        ]


def _has_gradients(expected: Expected) -> bool:
    return any(name.startswith("gradients.") for name in expected.tensors)


@contextmanager
def _pointing_into(field: str) -> Iterator[None]:
    """Point errors at a field of the check instead of the request that is checked."""
    try:
        yield
    except InvalidRequest as error:
        error.errors = tuple(
            replace(found, pointer=f"#/{field}{found.pointer[1:]}") for found in error.errors
        )
        raise
