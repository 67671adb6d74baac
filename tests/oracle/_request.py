"""What a porter reads in a request: each convention's defaults, the layout, the numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Body = Mapping[str, Any]
CONVENTIONS = ("torch", "keras", "onnx", "flax")
PLAIN: Mapping[str, Any] = {
    "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "ceil_rule": "drop",
    "return_indices": False, "storage_order": "row", "tie": "first", "nan": "propagate",
    "divisor_override": None, "overhang_divisor": "inside", "empty_window": "refuse",
    "norm_type": 2.0, "output_size": None, "num_batches_tracked": 0, "groups": 1,
    "normalized_shape": None, "axis": None, "num_groups": None, "weight_offset": 0,
    "batched": True, "dtype": "float32", "training": True,
}  # fmt: skip
DISPUTED: Mapping[str, tuple[Any, Any, Any, Any]] = {
    "layout": ("channels_first", "channels_last", "channels_first", "channels_last"),
    "count_include_pad": (True, False, False, True),
    "index_base": ("plane", "tf", "onnx", "plane"),
    "index_space": ("output", "output", "default", "output"),
    "lp_abs": (False, True, True, True),
    "lp_partial": ("scaled", "sum", "sum", "sum"),
    "keepdims": (True, False, True, False),
    "momentum": (0.1, 0.99, 0.9, 0.99),
    "momentum_weights": ("batch", "running", "running", "running"),
    "running_var_estimator": ("unbiased", "biased", "biased", "biased"),
    "weight_layout": ("oihw", "hwio", "oihw", "hwio"),
    "batch_norm.eps": (1e-5, 1e-3, 1e-5, 1e-5),
    "sync_batch_norm.eps": (1e-5, 1e-3, 1e-5, 1e-5),
    "instance_norm.eps": (1e-5, 1e-3, 1e-5, 1e-6),
    "group_norm.eps": (1e-5, 1e-3, 1e-5, 1e-6),
    "group_norm.num_groups": (None, 32, None, 32),
    "layer_norm.eps": (1e-5, 1e-3, 1e-5, 1e-6),
    "rms_norm.eps": (None, 1e-6, 1e-5, 1e-6),
    "conv.padding": (0, 0, 0, "same_upper"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A layer and a body whose tensors are arrays; `work` is the dtype the client computes in."""

    layer: str
    body: Body
    fault: str | None = None
    work: Any = np.float64

    @property
    def family(self) -> str:
        return re.sub(r"_?[123]d$", "", self.layer)

    @property
    def convention(self) -> str:
        return str(self.body.get("convention", "torch"))

    def __call__(self, name: str) -> Any:
        if name in self.body:
            return self.body[name]
        for key in (f"{self.family}.{name}", name):
            if key in DISPUTED:
                return DISPUTED[key][CONVENTIONS.index(self.convention)]
        return PLAIN[name]

    def numbers(self, name: str) -> Array | None:
        """A tensor of the request, or none where it was not sent."""
        given = self.body.get(name)
        if given is None or isinstance(given, str):
            return None
        array = np.asarray(given)
        return array.astype(np.int64 if array.dtype.kind in "iu" else self.work)

    def image(self, name: str = "input") -> Array:
        """A feature map as `(N, C, *spatial)`."""
        array = self.numbers(name)
        assert array is not None, name
        return self.inward(array)

    def inward(self, array: Array) -> Array:
        array = array if self("batched") else array[None]
        last = self("layout") == "channels_last" and array.ndim > 2
        return np.moveaxis(array, -1, 1) if last else array

    def outward(self, array: Array) -> Array:
        """`(N, C, *spatial)` as the client was asked to send it."""
        if self("layout") == "channels_last" and array.ndim > 2:
            array = np.moveaxis(array, 1, -1)
        return array if self("batched") else array[0]

    def gradient(self, shape: tuple[int, ...]) -> Array | None:
        """The gradient of an output of this shape, `(N, C, *spatial)`."""
        sent = self.body.get("grad_output")
        if sent is None:
            return None
        if isinstance(sent, str):
            return np.ones(shape, self.work)
        found = self.image("grad_output")
        assert found.size == np.prod(shape), (found.shape, shape)
        return found.reshape(shape)

    def vector(self, name: str, length: int, fill: float) -> Array:
        given = self.numbers(name)
        return np.full(length, fill, self.work) if given is None else given


def per_axis(value: Any, dims: int) -> list[Any]:
    """One entry per axis."""
    entries = list(value) if isinstance(value, list | tuple) else [value]
    return entries * dims if len(entries) == 1 else entries
