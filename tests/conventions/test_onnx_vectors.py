"""Golden vectors as ONNX node tests, through ONNX's own checker and reference evaluator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.layers import LAYERS
from app.vector_files import VectorSet, write
from tests.vectors._sets import cases

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
DTYPES = ("float32", "float16")
WRONG_IN_EVALUATOR: dict[str, set[str]] = {
    "max_pool": {
        # NaN does not win, and indices of ties, NaN and -Infinity are others or none.
        "nan-second-in-its-window", "nan-first-in-its-window", "nan-propagates-beside-ties",
        "last-of-several-nans-gets-the-gradient", "first-of-equal-maxima-gets-the-gradient",
        "tie-across-rows", "negative-zero-equals-zero", "all-minus-infinity",
        # Pads are read in another order where every stride is 1, or run out of bounds.
        "indices-count-the-whole-tensor", "indices-in-column-major-order",
        "same-upper-pads-more-at-the-end", "same-lower-pads-more-at-the-start",
        "padding-above-half-the-kernel", "no-window-of-padding-is-let-through",
    },
    "avg_pool": {"nan-stays-in-its-windows"},  # NaN stands for padding, and is left out
    "lp_pool": {"partial-window-is-summed", "ceil-mode-adds-a-partial-window"},
    "global_max_pool": {"one-spatial-axis", "three-spatial-axes"},  # takes two axes for granted
    "global_avg_pool": {"empty-batch"},
}  # fmt: skip
"""Cases that the evaluator of onnx 1.23 computes otherwise than its operator's text says."""


def loaded(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_array(tensor)


def run(folder: Path) -> tuple[list[Any], list[Any]]:
    """What the evaluator gives, and what the files expect."""
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    data = folder / "test_data_set_0"
    names = [value.name for value in model.graph.input]
    feeds = {name: loaded(data / f"input_{i}.pb") for i, name in enumerate(names)}
    outputs = [loaded(data / f"output_{i}.pb") for i in range(len(model.graph.output))]
    return reference.ReferenceEvaluator(model).run(None, feeds), outputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_evaluator_agrees(tmp_path: Path, layer: str, dtype: str) -> None:
    found = cases(layer, dtype=dtype, convention="onnx")
    write(tmp_path, [VectorSet(layer, 0, dtype, found)], ["onnx"], 0)
    wrong = {}
    for case in found:
        folder = tmp_path / layer / case.name
        if not folder.exists():
            continue
        try:
            got, wanted = run(folder)
        except Exception as error:
            if type(error).__module__.startswith("onnx.checker"):
                raise
            wrong[case.name] = f"{type(error).__name__}: {error}"[:100]
            continue
        rtol = {"float32": 1e-4, "float16": 4e-3}[dtype]
        for ours, theirs in zip(wanted, got, strict=True):
            a, b = (np.asarray(x).astype(np.float64) for x in (ours, theirs))
            if a.shape != b.shape or not np.allclose(a, b, rtol, rtol, equal_nan=True):
                wrong[case.name] = "differs"
    stem = layer[:-2] if layer.endswith("d") and layer[-2].isdigit() else layer
    listed = WRONG_IN_EVALUATOR.get(stem, set())
    assert {name.rstrip("-0123456789") for name in wrong} <= listed
