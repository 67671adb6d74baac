"""Rules that hold for every fault of the table, on the layers' own cases and on odd shapes."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from app.errors import InvalidRequest
from app.faults import FAULTS, Fault
from app.layers import LAYERS, LayerSpec, Plan
from tests.faults._emulation import Arrays, answered, planned

NAN, INF = float("nan"), float("inf")
Example = tuple[str, dict[str, Any], dict[str, Any]]


def ids(fault: Fault) -> str:
    """Faults of one name are told apart by their number."""
    return f"{FAULTS.index(fault)}-{fault.name}"


EACH = pytest.mark.parametrize("fault", FAULTS, ids=ids)


def grid(*shape: int, seed: int = 0) -> np.ndarray:
    """Small integers, with ties."""
    return np.random.default_rng(seed).integers(-4, 4, shape).astype(float)


def examples() -> Iterator[Example]:
    """Requests on which faults show: ties, NaN, uneven axes and padding, dilation, a large mean."""
    x1, x2, x3 = grid(2, 4, 9), grid(2, 4, 8, 6), grid(2, 4, 5, 4, 6)
    spoiled = x2.copy()
    spoiled[0, 0, 2:5, 2:5] = NAN
    spoiled[1, 1] = -INF
    onnx = {"convention": "onnx", "layout": "channels_first"}
    sliding: dict[str, Any] = {
        **onnx,
        "kernel_size": [3, 2],
        "stride": [2, 1],
        "padding": [[1, 2], [1, 0]],
    }
    indexed = {"return_indices": True, "index_base": "plane"}
    for x in (x2 - 4, x2, spoiled):
        yield "max_pool2d", {"input": x}, {**sliding, **indexed}
    yield "max_pool2d", {"input": x2}, {**sliding, **indexed, "dilation": [2, 1]}
    yield "max_pool2d", {"input": x2}, {**sliding, **indexed, "kernel_size": 3, "stride": 2}
    yield "max_pool2d", {"input": x2 - 4}, {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    yield "max_pool1d", {"input": x1}, {"kernel_size": 3, "padding": 1, **indexed}
    yield "max_pool3d", {"input": x3}, {"kernel_size": 3, "stride": 2, "padding": 1}
    for counted in (True, False):
        count = {"count_include_pad": counted}
        yield "avg_pool2d", {"input": x2}, {**sliding, **count}
        yield "avg_pool2d", {"input": x2}, {**sliding, **count, "dilation": [2, 1]}
    yield "avg_pool3d", {"input": x3}, {"kernel_size": 3, "stride": 2, "padding": 1}
    yield "lp_pool2d", {"input": x2}, {**sliding, "norm_type": 2, "dilation": [1, 2]}
    yield "lp_pool2d", {"input": x2}, {**sliding, "norm_type": 2, "lp_partial": "scaled"}
    for kind in ("max", "avg"):
        own = {"return_indices": True} if kind == "max" else {}
        yield f"adaptive_{kind}_pool2d", {"input": x2}, {"output_size": [3, 4], **own}
        yield f"global_{kind}_pool", {"input": x2}, {}
    yield "adaptive_max_pool2d", {"input": spoiled}, {"output_size": [3, 4]}
    spoiled_first = x2.copy()
    spoiled_first[:, :, 3, 3] = NAN
    yield "global_max_pool", {"input": spoiled_first}, {}
    running = {"running_mean": grid(4), "running_var": grid(4) ** 2 + 0.5}
    affine = {"weight": grid(4, seed=1) + 0.25, "bias": grid(4, seed=2)}
    noise = np.random.default_rng(5).normal(size=(3, 4, 5))
    for x in (noise, noise + 1e4, noise * 0.3):
        sent = {"input": x, **affine, **running}
        yield "batch_norm1d", sent, {"training": True, "eps": 0.25}
        yield "group_norm", {"input": x, **affine}, {"num_groups": 2, "eps": 0.25}
        yield "instance_norm", {"input": x, **affine}, {"eps": 0.25}
        vectors = {"weight": grid(5) + 0.25, "bias": grid(5)}
        yield "layer_norm", {"input": x, **vectors}, {"axis": -1, "eps": 0.25}
    yield "batch_norm1d", {"input": noise, **affine, **running}, {"training": False, "eps": 0.25}
    yield "rms_norm", {"input": noise, "weight": grid(5) + 0.25}, {"axis": -1, "eps": 0.25}
    parts = {"inputs.0": noise, "inputs.1": noise[:1, :, :2] + 3, **affine}
    yield "sync_batch_norm", parts, {"training": True, "eps": 0.25}
    kernel = {"weight": grid(4, 4, 3, 3, seed=3), "bias": grid(4)}
    conv: dict[str, Any] = {"stride": [2, 1], "padding": [[1, 2], [1, 0]]}
    yield "conv2d", {"input": x2, **kernel}, conv
    yield "conv2d", {"input": x2, **kernel}, {**conv, "dilation": [2, 1]}
    yield "relu", {"input": spoiled}, {}
    yield "max_unpool1d", {"input": [[[3.0, 5.0]]], "indices": [[[1, 2]]]}, {"kernel_size": 2}


EXAMPLES = tuple(examples())


def gradient(spec: LayerSpec, plan: Plan) -> Any:
    rng = np.random.default_rng(7)
    shapes = [s for name, s in plan.outputs.items() if name.partition(".")[0] == spec.result]
    grads = [rng.normal(size=shape) for shape in shapes]
    return grads if spec.many else grads[0]


def dtype_of(fault: Fault) -> torch.dtype:
    if fault.only_halves:
        return torch.bfloat16
    return torch.float32 if fault.in_dtype else torch.float64


def run(fault: Fault, example: Example, dtype: torch.dtype | None = None) -> Arrays | None:
    """What the client got; None where the fault does not apply."""
    layer, inputs, options = example
    spec = LAYERS[layer]
    built = fault.layer(spec) if spec.family in fault.families else spec
    if built is spec or not fault.applies(planned(spec, spec, inputs, **options)):
        return None
    try:
        plan = planned(spec, built, inputs, **options)
    except InvalidRequest:
        return None
    used = dtype or dtype_of(fault)
    return answered(spec, built, inputs, gradient(spec, plan), used, **options)


def right(example: Example, dtype: torch.dtype) -> Arrays:
    layer, inputs, options = example
    spec = LAYERS[layer]
    plan = planned(spec, spec, inputs, **options)
    return answered(spec, spec, inputs, gradient(spec, plan), dtype, **options)


def differ(found: Arrays, other: Arrays) -> bool:
    """Whether two clients' answers differ in a value, beyond rounding."""
    for name in found.keys() & other.keys():
        if found[name].shape != other[name].shape:
            return True
        if not np.allclose(found[name], other[name], rtol=1e-4, atol=1e-6, equal_nan=True):
            return True
    return False


@EACH
def test_every_row_is_complete(fault: Fault) -> None:
    assert fault.name == fault.name.lower().replace(" ", "-")
    assert fault.families <= {spec.family for spec in LAYERS.values()}
    assert fault.message.startswith(("You", "Your", "Each", "Of several", "Where windows"))
    assert fault.message.endswith(".")
    assert fault.source == "" or fault.source.startswith("https://github.com/")


@EACH
def test_every_fault_differs_from_the_right_answer(fault: Fault) -> None:
    found = [(example, run(fault, example)) for example in EXAMPLES]
    ran = [(example, answer) for example, answer in found if answer is not None]
    assert any(differ(answer, right(example, dtype_of(fault))) for example, answer in ran)


@EACH
def test_what_a_fault_cannot_change_is_right(fault: Fault) -> None:
    for example in EXAMPLES:
        answer = run(fault, example)
        own = right(example, dtype_of(fault)) if answer else {}
        fixed = {name for name in own if name in (answer or {}) and not fault.can_change(name)}
        for name in fixed:
            np.testing.assert_allclose((answer or {})[name], own[name], rtol=1e-9, atol=1e-11)


def test_two_faults_differ_from_each_other() -> None:
    """Where both apply, in the dtype of the first."""
    found = [[run(fault, example) for example in EXAMPLES] for fault in FAULTS]
    alike = []
    for (one, first), (two, second) in itertools.combinations(zip(FAULTS, found, strict=True), 2):
        if one.name == two.name or dtype_of(one) != dtype_of(two):
            continue
        both = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
        if both and not any(differ(a, b) for a, b in both):
            alike.append((one.name, two.name))
    assert not alike


FAR: dict[str, Any] = {"dilation": 2, "padding": [[4, 0]], "convention": "onnx"}
"""Without the dilation, the only window holds no element."""
ODD: tuple[Example, ...] = (
    *(
        (f"{kind}_pool1d", {"input": np.zeros(shape)}, {"kernel_size": 1, **more})
        for kind in ("max", "avg", "lp")
        for shape in ((0, 2, 5), (1, 1, 1))
        for more in ({}, {"padding": [[1, 0]], "kernel_size": 2, "convention": "onnx"})
    ),
    ("max_pool1d", {"input": np.zeros((0, 2, 5))}, {"kernel_size": 2, "return_indices": True}),
    ("max_pool2d", {"input": np.full((1, 1, 2, 2), NAN)}, {"kernel_size": 2}),
    *(
        (f"{layer}1d", {"input": np.ones((1, 1, 1)), **more}, {**FAR, **options})
        for layer, more, options in (
            ("max_pool", {}, {"kernel_size": 3, "return_indices": True}),
            ("avg_pool", {}, {"kernel_size": 3}),
            ("lp_pool", {}, {"kernel_size": 3}),
            ("conv", {"weight": np.ones((1, 1, 3))}, {}),
        )
    ),
    *(
        (f"adaptive_{kind}_pool1d", {"input": np.zeros(shape)}, {"output_size": size})
        for kind in ("max", "avg")
        for shape in ((0, 2, 5), (1, 1, 1))
        for size in (0, 1, 3, 7)
    ),
    *(
        (f"global_{kind}_pool", {"input": np.zeros(shape)}, {})
        for kind in ("max", "avg")
        for shape in ((0, 2, 5), (1, 1, 1), (1, 1, 1, 1, 1))
    ),
    ("batch_norm1d", {"input": np.zeros((0, 2))}, {"training": True}),
    ("batch_norm1d", {"input": np.zeros((1, 2))}, {"training": True, "convention": "onnx"}),
    ("batch_norm2d", {"input": np.zeros((2, 1, 1, 1))}, {"training": True}),
    (
        "sync_batch_norm",
        {"inputs.0": np.zeros((0, 2)), "inputs.1": np.ones((3, 2))},
        {"training": True},
    ),
    ("group_norm", {"input": np.zeros((0, 2, 3))}, {"num_groups": 1}),
    ("group_norm", {"input": np.zeros((1, 1))}, {"num_groups": 1}),
    ("instance_norm", {"input": np.zeros((1, 2, 1))}, {"convention": "onnx"}),
    ("layer_norm", {"input": np.zeros((0, 3))}, {"axis": -1}),
    ("layer_norm", {"input": np.zeros((1,))}, {"axis": 0}),
    ("rms_norm", {"input": np.zeros((1,))}, {"axis": 0}),
    ("conv1d", {"input": np.zeros((0, 2, 5)), "weight": np.zeros((2, 2, 3))}, {"padding": 2}),
    ("conv1d", {"input": np.zeros((1, 1, 1)), "weight": np.zeros((1, 1, 1))}, {}),
    ("relu", {"input": np.zeros(())}, {}),
    ("relu", {"input": np.zeros((0, 3))}, {}),
)


@EACH
def test_odd_shapes_are_answered(fault: Fault) -> None:
    for example in (*ODD, *EXAMPLES):
        spec = LAYERS[example[0]]
        for dtype in {dtype_of(fault), torch.float64 if not fault.in_dtype else torch.float16}:
            answer = run(fault, example, dtype)
            if answer is None:
                continue
            plan = planned(spec, fault.layer(spec), example[1], **example[2])
            for name, shape in plan.outputs.items():
                assert name not in answer or answer[name].shape == shape
            for name, shape in plan.inputs.items():
                gradient_of = answer.get(f"gradients.{name}")
                assert gradient_of is None or gradient_of.shape == shape


def test_every_layer_can_have_faults() -> None:
    for spec in LAYERS.values():
        assert any(f.layer(spec) is not spec for f in FAULTS if spec.family in f.families)


def test_integers_have_the_faults_of_maxima() -> None:
    x = torch.tensor([[[-3, -1, -3]]], dtype=torch.int8)
    spec = LAYERS["max_pool1d"]
    sent: dict[str, Any] = {"kernel_size": 3, "padding": 1, "stride": 1}
    plan = planned(spec, spec, {"input": x.numpy()}, **sent)
    found = {}
    for fault in FAULTS:
        if spec.family in fault.families and fault.applies(plan):
            found[fault.name] = fault.layer(spec).run({"input": x}, plan)["output"].tolist()
    assert found["zero-padded-maximum"] == [[[0, -1, 0]]]
    assert found["begin-padding-dropped"] == [[[-1, -1, -3]]]
    assert found["tie-last"] == found["nan-if-first"] == [[[-1, -1, -1]]]
