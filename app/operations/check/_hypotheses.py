"""What a client may have done instead: options at other values, conventions, faults."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from app.faults import FAULTS, Fault
from app.layers import LayerSpec, Plan
from app.operations.check._options import AFFECTS, OPTIONS, Option, spelled
from app.schemas.calls import ComputeCall
from app.schemas.options import CONVENTIONS
from app.schemas.tensors import DTYPES

LEVELS = 5


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`options` as a client would send them, `applied` the fields of the call that they change."""

    options: Mapping[str, Any]
    applied: Mapping[str, Any]
    fault: Fault | None = None

    @property
    def title(self) -> str:
        """The hypothesis in a few words."""
        options = [f"{name}: {spelled(value)}" for name, value in self.options.items()]
        return ", ".join(([] if self.fault is None else [self.fault.name]) + options)

    def with_fault(self, fault: Fault) -> "Hypothesis":
        """The same, with a fault as well."""
        return Hypothesis(self.options, self.applied, fault)

    def and_also(self, other: "Hypothesis") -> "Hypothesis":
        """Both changes."""
        return Hypothesis(
            {**self.options, **other.options}, {**self.applied, **other.applied}, self.fault
        )


NOTHING = Hypothesis({}, {})


@dataclass(frozen=True, slots=True)
class Space:
    """All hypotheses about one request; `names` are the results that the client sent."""

    spec: LayerSpec
    call: ComputeCall
    plan: Plan
    names: Collection[str]

    def level(self, number: int) -> Iterator[Hypothesis]:
        """Those of one level, the common ones first: 1, one option; 2, a convention; 3, two
        options; 4, a fault; 5, a fault and an option.
        """
        singles = self.singles()
        match number:
            case 1:
                yield from singles
            case 2:
                yield from self._conventions()
            case 3:
                for one, other in itertools.combinations(singles, 2):
                    if not one.options.keys() & other.options.keys():
                        yield one.and_also(other)
            case 4:
                yield from map(NOTHING.with_fault, self.faults())
            case _:
                for fault, one in itertools.product(self.faults(), singles):
                    yield one.with_fault(fault)

    def faults(self) -> list[Fault]:
        """The faults of the layer's family that its dtype and what was sent can show."""
        dtype = DTYPES[self.call.dtype]
        return [
            fault
            for fault in FAULTS
            if self.spec.family in fault.families
            and any(map(fault.can_change, self.names))
            and (dtype.is_half or not fault.only_halves)
            and (dtype.is_float or not fault.in_dtype)
        ]

    def singles(self) -> list[Hypothesis]:
        """Each option at each other value."""
        return [
            Hypothesis({option.name: shown}, applied)
            for option in OPTIONS
            if self._matters(option)
            for shown, applied in self._values(option)
        ]

    def count(self) -> int:
        """An upper bound of how many there are."""
        singles, faults = len(self.singles()), len(self.faults())
        return singles + 6 + singles * (singles - 1) // 2 + faults * (1 + singles)

    def _matters(self, option: Option) -> bool:
        """Whether the layer has the option, and it can change what the client sent."""
        if option.name not in self.spec.options.model_fields:
            return False
        if option.name == "layout":
            return any(port.mapped for port in self.spec.inputs)
        has_indices = "return_indices" in self.spec.options.model_fields
        if option.name in ("index_base", "storage_order") and not has_indices:
            return True
        affected = AFFECTS.get(option.name)
        parts = {name.partition(".")[0] for name in self.names}
        return affected is None or not parts.isdisjoint(affected)

    def _conventions(self) -> Iterator[Hypothesis]:
        layout = self.plan.options.layout
        others = [one for one in CONVENTIONS if one != self.plan.options.convention]
        for convention in others:
            change: dict[str, Any] = {"convention": convention}
            yield Hypothesis(change, change)
        # A convention may come with another layout; some ports keep that of what was sent.
        if "layout" not in self.call.model_fields_set:
            for convention in others:
                if default_of(self.spec, convention, "layout", self.call.dtype) != layout:
                    change = {"convention": convention, "layout": layout}
                    yield Hypothesis(change, change)

    def _values(self, option: Option) -> list[tuple[Any, dict[str, Any]]]:
        """The option's other values: as shown, and the fields that a call with it has."""
        name = option.name
        current = getattr(self.plan.options, name)
        if name == "axis":
            return self._axes()
        if name in _VALUES:
            values = _VALUES[name](self)
        else:
            annotation = self.spec.options.model_fields[name].annotation
            values = get_args(annotation) if get_origin(annotation) is Literal else (True, False)
        return [
            (value, {name: value})
            for value in dict.fromkeys(values)
            if value != current and value != "refuse"
        ]

    def _axes(self) -> list[tuple[Any, dict[str, Any]]]:
        rank, normalized = len(self.plan.inputs["input"]), self.plan.options.normalized_shape
        first = rank - len(normalized)
        return [
            (axis - rank, {"axis": axis - rank, "normalized_shape": None})
            for axis in reversed(range(rank))
            if axis != first
        ]

    def defaults(self, name: str) -> list[Any]:
        """The option's default in each convention."""
        return [
            default_of(self.spec, convention, name, self.call.dtype) for convention in CONVENTIONS
        ]

    def _strides(self) -> list[Any]:
        axes = self.plan.axes
        kernel = (
            tuple(axis.kernel for axis in axes) if axes else tuple(self.plan.options.kernel_size)
        )
        ones = (1,) * len(kernel)
        stride = self.plan.options.stride
        values: list[Any] = [kernel] if kernel not in (stride, ones) else []
        return [*values, 1] if stride != ones else values

    def _paddings(self) -> list[Any]:
        padding = self.plan.options.padding
        swapped = tuple((after, before) for before, after in padding)
        values: list[Any] = [] if swapped == padding else [swapped]
        return ["same_upper", "same_lower", "valid", *values] if self.plan.axes else values

    def _groups(self) -> list[int]:
        channels = self.plan.inputs["input"][1]
        return [count for count in (1, channels, 32) if channels % count == 0]


_VALUES: Mapping[str, Callable[[Space], Collection[Any]]] = {
    "stride": Space._strides,
    "padding": Space._paddings,
    "divisor_override": lambda _: (None,),
    "momentum": lambda space: (*space.defaults("momentum"), None),
    "eps": lambda space: space.defaults("eps"),
    "num_groups": Space._groups,
    "weight_offset": lambda _: (0, 1),
}


def default_of(spec: LayerSpec, convention: Any, name: str, dtype: str) -> Any:
    """An option's default in one convention."""
    value = spec.presets[convention].get(name, spec.options.model_fields[name].default)
    return value(dtype) if callable(value) else value
