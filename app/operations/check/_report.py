"""One client's result held against the reference's: the errors, where they are, and remarks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.compute.matching import (
    Bound,
    Flags,
    Sent,
    differ_in_sign_of_zero,
    distances,
    errors,
    matches,
    shortest,
)
from app.compute.tolerances import Tolerance
from app.schemas.check import ElementCard, TensorCard, ToleranceCard
from app.schemas.tensors import Shape

MOST_WORST = 5
Cards = Callable[[Sequence[Shape]], Sequence[dict[str, Any]]]
Ties = Callable[[], Flags]


def compared(
    name: str,
    ours: Sent,
    reference: Sent,
    bound: Bound,
    tolerance: Tolerance | None,
    *,
    ties: Ties | None = None,
    cards: Cards | None = None,
) -> TensorCard:
    """Compare two tensors of the same shape. `ties` tells which indices point at equal elements,
    and `cards` describes the windows of some output elements.
    """
    found = matches(ours, reference, bound)
    notes = []
    if ties is not None and not found.all():
        tied = ties() & ~found
        if tied.any():
            found = found | tied
            notes.append(
                f"{_counted(int(tied.sum()), 'index points', 'indices point')} at another element "
                "of the window with the same value."
            )
    if zeros := differ_in_sign_of_zero(ours, reference):
        notes.append(f"{_counted(zeros, 'zero has', 'zeros have')} the other sign (-0.0).")
    apart = errors(ours, reference)
    wrong = np.argwhere(~found)
    card = TensorCard(
        name=name,
        match=not len(wrong),
        max_abs_error=_plain(apart.absolute),
        max_rel_error=_plain(apart.relative),
        max_ulp=apart.ulp,
        mismatched=len(wrong),
        total=found.size,
        tolerance=None if tolerance is None else ToleranceCard(**tolerance._asdict()),
        note=" ".join(notes) or None,
    )
    if card.match:
        return card
    sizes = distances(ours, reference)[tuple(wrong.T)]
    order = np.argsort(-np.nan_to_num(sizes, nan=np.inf), kind="stable")[:MOST_WORST]
    places = [_index(wrong[0]), *(_index(wrong[number]) for number in order)]
    elements = [_element(ours, reference, place) for place in places]
    windows = cards(places) if cards else ()
    if windows:
        elements = [
            element.model_copy(update={"window": window})
            for element, window in zip(elements, windows, strict=True)
        ]
    return card.model_copy(update={"first_mismatch": elements[0], "worst": tuple(elements[1:])})


def of_other_shape(name: str, ours: Shape, reference: Shape) -> TensorCard:
    """A result of another shape than the reference's."""
    total = int(np.prod(ours, dtype=object)) if ours else 1
    note = f"Its shape is {list(ours)}; the reference's is {list(reference)}."
    return TensorCard(name=name, match=False, mismatched=total, total=total, note=note)


def without_reference(name: str, ours: Shape, why: str) -> TensorCard:
    """A result that the reference does not have."""
    total = int(np.prod(ours, dtype=object)) if ours else 1
    return TensorCard(name=name, match=False, mismatched=total, total=total, note=why)


def shape_card(name: str, ours: Any, reference: Any) -> TensorCard:
    """The shape of the output as a result of its own."""
    pairs = list(zip(_lengths(ours), _lengths(reference), strict=False))
    longer = abs(len(_lengths(ours)) - len(_lengths(reference)))
    wrong = [index for index, (a, b) in enumerate(pairs) if a != b]
    note = None if ours == reference else f"Yours is {_spelled(ours)}; it is {_spelled(reference)}."
    first = None
    if wrong:
        a, b = pairs[wrong[0]]
        first = ElementCard(index=(wrong[0],), expected=a, actual=b)
    return TensorCard(
        name=name,
        match=ours == reference,
        mismatched=len(wrong) + longer,
        total=len(_lengths(ours)),
        first_mismatch=first,
        note=note,
    )


def _lengths(shape: Any) -> list[int]:
    if isinstance(shape, tuple):
        return list(shape)
    return [length for one in shape for length in one]


def _spelled(shape: Any) -> str:
    return str(list(shape) if isinstance(shape, tuple) else [list(one) for one in shape])


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _index(place: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in place)


def _element(ours: Sent, reference: Sent, place: Shape) -> ElementCard:
    return ElementCard(
        index=place,
        expected=_number(ours, place),
        actual=_number(reference, place),
    )


def _number(tensor: Sent, place: Shape) -> int | float | str:
    value: int | float = tensor.numbers[place].item()
    return shortest(value, tensor.payload.dtype) if tensor.is_float else value


def _plain(number: float) -> float | str:
    return shortest(number, "float64")
