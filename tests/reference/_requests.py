"""The meaning of a request: each convention's defaults, layouts, and the form of an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.reference._windows import Array

CONVENTIONS = ("torch", "keras", "onnx", "flax")
DEFAULTS: Mapping[str, Any] = {
    "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "ceil_rule": "drop",
    "return_indices": False, "storage_order": "row", "tie": "first", "nan": "propagate",
    "divisor_override": None, "overhang_divisor": "inside", "norm_type": 2.0,
    "output_size": None, "num_batches_tracked": 0, "groups": 1, "normalized_shape": None,
    "axis": None, "num_groups": None, "batched": True, "dtype": "float32",
    "empty_window": "refuse", "weight_offset": 0,
}  # fmt: skip
BY_CONVENTION: Mapping[str, tuple[Any, Any, Any, Any]] = {
    "layout": ("channels_first", "channels_last", "channels_first", "channels_last"),
    "count_include_pad": (True, False, False, True),
    "index_base": ("plane", "tf", "onnx", "plane"),
    "index_space": ("output", "output", "default", "output"),
    "lp_abs": (False, True, True, True),
    "lp_partial": ("scaled", "sum", "sum", "sum"),
    "keepdims": (True, False, True, False),
    "weight_layout": ("oihw", "hwio", "oihw", "hwio"),
    "momentum": (0.1, 0.99, 0.9, 0.99),
    "momentum_weights": ("batch", "running", "running", "running"),
    "running_var_estimator": ("unbiased", "biased", "biased", "biased"),
}
BY_LAYER: Mapping[tuple[str, str], tuple[Any, Any, Any, Any]] = {
    ("batch_norm", "eps"): (1e-5, 1e-3, 1e-5, 1e-5),
    ("sync_batch_norm", "eps"): (1e-5, 1e-3, 1e-5, 1e-5),
    ("instance_norm", "eps"): (1e-5, 1e-3, 1e-5, 1e-6),
    ("group_norm", "eps"): (1e-5, 1e-3, 1e-5, 1e-6),
    ("group_norm", "num_groups"): (None, 32, None, 32),
    ("layer_norm", "eps"): (1e-5, 1e-3, 1e-5, 1e-6),
    ("rms_norm", "eps"): (None, 1e-6, 1e-5, 1e-6),
    ("conv", "stride"): (1, 1, 1, 1),
    ("conv", "padding"): (0, 0, 0, "same_upper"),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """One result: the correct value, and what its accuracy depends on.

    `terms` is the summed magnitude of the terms of each element, 0 where nothing is rounded;
    `count` is the maximum number of terms.
    """

    value: Array
    terms: Array
    count: int = 1


def exact(value: Array) -> Expected:
    """A result that is not rounded in any dtype."""
    return Expected(value, np.zeros(value.shape))


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request; calling it with an option's name returns the effective value."""

    family: str
    body: Mapping[str, Any]
    convention: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "convention", self.body.get("convention", "torch"))

    def __call__(self, name: str) -> Any:
        number = CONVENTIONS.index(self.convention)
        default = DEFAULTS.get(name)
        if name in BY_CONVENTION:
            default = BY_CONVENTION[name][number]
        if (self.family, name) in BY_LAYER:
            default = BY_LAYER[self.family, name][number]
        return self.body.get(name, default)

    @property
    def dims(self) -> int:
        """Number of spatial axes of the input."""
        return int(self.body["input"].ndim) - 1 - bool(self("batched"))

    def image(self, name: str = "input") -> Array:
        """A tensor as `(N, C, *spatial)`."""
        return self.inward(self.body[name])

    def vector(self, name: str, length: int, fill: float) -> Array:
        """A tensor with one value per channel, or `fill` if it was not sent."""
        given: Array | None = self.body.get(name)
        return np.full(length, fill) if given is None else as_numbers(given)

    def gradient(self, shape: tuple[int, ...]) -> Array | None:
        """The gradient for an output of this shape, `(N, C, *out)`, if one was sent."""
        given = self.body.get("grad_output")
        if given is None:
            return None
        return np.ones(shape) if isinstance(given, str) else self.inward(given)

    def inward(self, tensor: Array) -> Array:
        """Convert a tensor as sent to `(N, C, *spatial)`."""
        array = as_numbers(tensor)
        array = array if self("batched") else array[None]
        last = self("layout") == "channels_last" and array.ndim > 2
        return np.ascontiguousarray(np.moveaxis(array, -1, 1) if last else array)

    def outward(self, found: Expected) -> Expected:
        """Convert `(N, C, *spatial)` to the layout as sent."""
        return Expected(self._sent(found.value), self._sent(found.terms), found.count)

    def _sent(self, array: Array) -> Array:
        if self("layout") == "channels_last" and array.ndim > 2:
            array = np.moveaxis(array, 1, -1)
        return array if self("batched") else array[0]


def as_numbers(tensor: Array) -> Array:
    """Convert floats to float64, and integers to int64."""
    return tensor.astype(np.int64 if tensor.dtype.kind in "iu" else np.float64)
