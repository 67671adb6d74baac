"""What a case of a set of golden vectors tests: its name, why, and the request it makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.layers import LayerSpec
from app.operations.vectors._draw import Draw
from app.schemas.options import Convention
from app.schemas.tensors import DTYPES

Body = Mapping[str, Any]
"""A request's fields; tensors are arrays with a batch axis and channels first."""
Make = Callable[[Draw], Body]
GRADIENT = "gradient"
"""The member of a body that asks for another gradient than a drawn one: "ones", or none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a set is made for. `convention` is None if the request names none."""

    spec: LayerSpec
    seed: int
    dtype: str
    convention: Convention | None

    @property
    def is_float(self) -> bool:
        """Whether the set's dtype has gradients, NaN, and infinities."""
        return DTYPES[self.dtype].is_float

    @property
    def used(self) -> Convention:
        """The convention of the set's requests, unless a case is about another one."""
        return self.convention or "torch"

    @property
    def dims(self) -> int:
        """Spatial axes of the layer; 2 if it takes any number."""
        last = self.spec.name.removesuffix("d")[-1]
        return int(last) if last.isdigit() else 2


def anywhere(_: Setting) -> bool:
    """The case fits every setting."""
    return True


def floats(setting: Setting) -> bool:
    """The case needs fractions, NaN, or infinities."""
    return setting.is_float


def not_torch(setting: Setting) -> bool:
    """The case has what torch refuses."""
    return setting.used != "torch"


def several_axes(setting: Setting) -> bool:
    """The case needs two spatial axes or more."""
    return setting.dims > 1


def has(option: str) -> Callable[[Setting], bool]:
    """The case needs this option."""
    return lambda setting: option in setting.spec.options.model_fields


def float_with(option: str) -> Callable[[Setting], bool]:
    """The case needs this option, and a float dtype."""
    return lambda setting: setting.is_float and has(option)(setting)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One case, which `body` makes from drawn numbers.

    With `exact`, the mathematical results that are short are short by design, so that a correct
    implementation has no error in them. With `steady`, float64 computes all results alike on every
    CPU: sums without rounding, then at most single operations. The results of others are rounded
    to the set's dtype far from where two of its numbers meet.
    """

    name: str
    why: str
    body: Make
    tags: tuple[str, ...] = ()
    exact: bool = True
    steady: bool = True
    fits: Callable[[Setting], bool] = anywhere
