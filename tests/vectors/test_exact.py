"""Exact outputs against exact fractions, computed from the definitions alone."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from app.layers import LAYERS
from app.operations.vectors import Case
from tests.vectors._sets import cases, tensors

Value = Fraction | float
"""A fraction; or a float that is not finite."""


def exact(value: float) -> Value:
    return Fraction(value) if np.isfinite(value) else float(value)


def added(values: list[Value]) -> Value:
    """The sum: exact if all are finite."""
    finite = [value for value in values if isinstance(value, Fraction)]
    rest = [value for value in values if not isinstance(value, Fraction)]
    return sum(rest) if rest else sum(finite, Fraction(0))


def times(a: Value, b: Value) -> Value:
    both = isinstance(a, Fraction) and isinstance(b, Fraction)
    return a * b if both else float(a) * float(b)


def root(value: Value) -> Value:
    """The square root of the square of a fraction."""
    if not isinstance(value, Fraction):
        return float(np.sqrt(value))
    above, below = (round(part**0.5) for part in (value.numerator, value.denominator))
    assert Fraction(above, below) ** 2 == value, "a design without an exact root"
    return Fraction(above, below)


def canonical(case: Case, array: Any) -> Any:
    """(N, C, *spatial)."""
    x = array if case.request["batched"] else array[None]
    last = case.request["layout"] == "channels_last" and x.ndim > 2
    return np.moveaxis(x, -1, 1) if last else x


def windows(case: Case, x: Any) -> Iterator[tuple[tuple[int, ...], list[Any], int, int]]:
    """For each output: its index, the coordinates inside, and how many taps the padded input and
    the kernel have there.
    """
    used: Any = case.response["options"]
    output = canonical(case, tensors(case.response)["output"]).shape[2:]
    for index in itertools.product(*map(range, output)):
        inside: list[list[int]] = []
        padded = 1
        for axis, i in enumerate(index):
            before, after = used["padding"][axis]
            start = i * used["stride"][axis] - before
            taps = [start + t * used["dilation"][axis] for t in range(used["kernel_size"][axis])]
            length = x.shape[2 + axis]
            inside.append([tap for tap in taps if 0 <= tap < length])
            padded *= sum(-before <= tap < length + after for tap in taps)
        kernel = int(np.prod(used["kernel_size"]))
        yield index, list(itertools.product(*inside)), padded, kernel


def pooled(case: Case, reduce: Any) -> Any:
    x = canonical(case, tensors(case.request)["input"])
    shape = canonical(case, tensors(case.response)["output"]).shape
    found = np.empty(shape, object)
    for index, inside, padded, kernel in windows(case, x):
        for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
            elements = [x[(n, c, *at)] for at in inside]
            found[(n, c, *index)] = reduce(elements, padded, kernel, case.response["options"])
    return found


def maximum(elements: list[float], padded: int, kernel: int, used: Any) -> Value:
    kept = [e for e in elements if not (used["nan"] == "ignore" and np.isnan(e))]
    if not elements and used.get("empty_window") == "zero":
        return Fraction(0)
    if not kept:
        return -np.inf
    return float("nan") if any(np.isnan(kept)) else exact(max(kept))


def mean(elements: list[float], padded: int, kernel: int, used: Any) -> Value:
    counted = padded if used["count_include_pad"] else len(elements)
    if used["overhang_divisor"] == "kernel" and used["count_include_pad"]:
        counted = kernel
    divisor = used["divisor_override"] or max(counted, 1)
    return times(added([exact(e) for e in elements]), Fraction(1, divisor))


def norm(elements: list[float], padded: int, kernel: int, used: Any) -> Value:
    p, values = used["norm_type"], [exact(e) for e in elements]
    assert p in (1, 2)
    if used["lp_abs"]:
        values = [value if value >= 0 else -value for value in values]
    total = added([value if p == 1 else times(value, value) for value in values])
    if used["lp_partial"] == "scaled":
        total = times(total, Fraction(kernel, max(padded, 1)))
    return total if p == 1 else root(total)


def adaptive(case: Case, reduce: Any) -> Any:
    x = canonical(case, tensors(case.request)["input"])
    found = np.empty(canonical(case, tensors(case.response)["output"]).shape, object)
    for index in itertools.product(*map(range, found.shape[2:])):
        sides = [
            range(i * n // o, -(-(i + 1) * n // o))
            for i, n, o in zip(index, x.shape[2:], found.shape[2:], strict=True)
        ]
        for lead in itertools.product(*map(range, x.shape[:2])):
            elements = [x[(*lead, *at)] for at in itertools.product(*sides)]
            found[(*lead, *index)] = reduce(elements)
    return found


def plain_max(elements: list[float]) -> Value:
    return float("nan") if any(np.isnan(elements)) else exact(max(elements))


def plain_mean(elements: list[float]) -> Value:
    return times(added([exact(e) for e in elements]), Fraction(1, len(elements)))


def convolved(case: Case) -> Any:
    sent = tensors(case.request)
    used: Any = case.response["options"]
    x, weight = canonical(case, sent["input"]), sent["weight"]
    if used.get("weight_layout") == "hwio":
        weight = np.moveaxis(weight, (-1, -2), (0, 1))
    bias = sent.get("bias", np.zeros(len(weight)))
    found = np.empty(canonical(case, tensors(case.response)["output"]).shape, object)
    per_group, outs = weight.shape[1], len(weight) // used["groups"]
    for n, o, *index in itertools.product(*map(range, found.shape)):
        terms = [exact(bias[o])]
        for c, *tap in itertools.product(*map(range, weight.shape[1:])):
            at = [
                i * s - pads[0] + t * d
                for i, t, s, d, pads in zip(
                    index, tap, used["stride"], used["dilation"], used["padding"], strict=True
                )
            ]
            if all(0 <= a < length for a, length in zip(at, x.shape[2:], strict=True)):
                channel = o // outs * per_group + c
                terms.append(times(exact(weight[(o, c, *tap)]), exact(x[(n, channel, *at)])))
        found[(n, o, *index)] = added(terms)
    return found


def normalized(values: list[Value], eps: Fraction, *, rms: bool = False) -> list[Value]:
    if not all(isinstance(value, Fraction) for value in values):
        return [float("nan")] * len(values)
    numbers = [value for value in values if isinstance(value, Fraction)]
    middle = Fraction(0) if rms else sum(numbers, Fraction(0)) / len(numbers)
    variance = sum(((n - middle) ** 2 for n in numbers), Fraction(0)) / len(numbers)
    deviation = root(variance + eps)
    assert isinstance(deviation, Fraction)
    return [(n - middle) / deviation for n in numbers]


def grouped_norm(case: Case, x: Any, groups: Any) -> Any:
    """Normalize the elements that share a group number, then scale and shift per channel."""
    sent, used = tensors(case.request), case.response["options"]
    eps = Fraction(used["eps"])
    found = np.empty(x.shape, object)
    for number in np.unique(groups):
        places = [tuple(at) for at in np.argwhere(groups == number)]
        own = normalized([exact(x[at]) for at in places], eps)
        for at, value in zip(places, own, strict=True):
            found[at] = value
    return affine(found, sent, 1)


def affine(found: Any, sent: Any, axis: int) -> Any:
    shape = [1] * found.ndim
    shape[axis] = found.shape[axis]
    for at in np.ndindex(found.shape):
        weight = Fraction(float(sent["weight"][at[axis]])) if "weight" in sent else Fraction(1)
        bias = Fraction(float(sent["bias"][at[axis]])) if "bias" in sent else Fraction(0)
        found[at] = added([times(found[at], weight), bias])
    return found


def batch_norm(case: Case, x: Any) -> Any:
    sent, used = tensors(case.request), case.response["options"]
    channel = np.arange(x.shape[1]).reshape(1, -1, *[1] * (x.ndim - 2)) + np.zeros(x.shape, int)
    if used["training"]:
        return grouped_norm(case, x, channel)
    found = np.empty(x.shape, object)
    for at in np.ndindex(x.shape):
        spread = Fraction(float(sent["running_var"][at[1]])) + Fraction(used["eps"])
        centered = Fraction(float(x[at])) - Fraction(float(sent["running_mean"][at[1]]))
        found[at] = times(centered, 1 / root(spread))
    return affine(found, sent, 1)


def sample_norm(case: Case) -> Any:
    x = canonical(case, tensors(case.request)["input"])
    groups = case.response["options"].get("num_groups", x.shape[1])
    groups = groups or 32
    channel = np.arange(x.shape[1]) // (x.shape[1] // groups)
    samples = np.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1)) * groups
    numbers = samples + channel.reshape(1, -1, *[1] * (x.ndim - 2)) + np.zeros(x.shape, int)
    return grouped_norm(case, x, numbers)


def trailing_norm(case: Case, *, rms: bool) -> Any:
    sent, used = tensors(case.request), case.response["options"]
    x, shape = sent["input"], used["normalized_shape"]
    offset = Fraction(used.get("weight_offset", 0))
    found = np.empty(x.shape, object)
    lead = x.shape[: x.ndim - len(shape)]
    for at in np.ndindex(lead):
        inner = list(np.ndindex(*shape))
        values = [exact(x[(*at, *i)]) for i in inner]
        own = normalized(values, Fraction(used["eps"]), rms=rms)
        for i, value in zip(inner, own, strict=True):
            weight = Fraction(float(sent["weight"][i])) + offset if "weight" in sent else 1
            bias = Fraction(float(sent["bias"][i])) if "bias" in sent else Fraction(0)
            found[(*at, *i)] = added([times(value, Fraction(weight)), bias])
    return found


def unpooled(case: Case) -> Any:
    sent = tensors(case.request)
    used: Any = case.response["options"]
    x, indices = (canonical(case, sent[name]) for name in ("input", "indices"))
    found = np.full(canonical(case, tensors(case.response)["output"]).shape, Fraction(0), object)
    plane = found.shape[2:]
    if used["index_space"] == "default":
        plane = tuple(
            (n - 1) * s - sum(pads) + k
            for n, s, pads, k in zip(
                x.shape[2:], used["stride"], used["padding"], used["kernel_size"], strict=True
            )
        )
    for at in np.ndindex(x.shape):
        position = int(indices[at])
        if used["index_base"] == "tf":
            position //= x.shape[1]
        elif used["index_base"] == "onnx":
            position -= (at[0] * x.shape[1] + at[1]) * int(np.prod(plane))
        order: Any = "F" if used["storage_order"] == "column" else "C"
        where = np.unravel_index(position, plane, order=order)
        found[(*at[:2], *where)] = exact(x[at])
    return found


def reference(layer: str, case: Case) -> Any:
    stem = layer[:-2] if layer[-2:] in ("1d", "2d", "3d") else layer
    if stem in ("max_pool", "avg_pool", "lp_pool"):
        return pooled(case, {"max_pool": maximum, "avg_pool": mean, "lp_pool": norm}[stem])
    if stem.startswith("adaptive"):
        return adaptive(case, plain_max if "max" in stem else plain_mean)
    if stem.startswith("global"):
        x = canonical(case, tensors(case.request)["input"])
        reduce = plain_max if "max" in stem else plain_mean
        flat = np.empty(x.shape[:2], object)
        for at in np.ndindex(flat.shape):
            flat[at] = reduce(x[at].ravel().tolist())
        keeps = case.response["options"]["keepdims"]
        return flat.reshape(*flat.shape, *[1] * (x.ndim - 2)) if keeps else flat
    if stem == "conv":
        return convolved(case)
    if stem == "max_unpool":
        return unpooled(case)
    if stem == "batch_norm":
        return batch_norm(case, canonical(case, tensors(case.request)["input"]))
    if stem in ("instance_norm", "group_norm"):
        return sample_norm(case)
    if stem in ("layer_norm", "rms_norm"):
        return trailing_norm(case, rms=stem == "rms_norm")
    x = tensors(case.request)["input"]
    found = np.empty(x.shape, object)
    for at in np.ndindex(x.shape):
        found[at] = exact(0.0 if x[at] <= 0 else x[at])
    return found


def is_equal(value: float, wanted: Value) -> bool:
    if isinstance(wanted, Fraction):
        return bool(np.isfinite(value)) and Fraction(float(value)) == wanted
    return bool(np.isnan(value)) if np.isnan(wanted) else value == wanted


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "sync_batch_norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exact_outputs_are_the_fractions(layer: str, dtype: str) -> None:
    checked = 0
    for case in cases(layer, dtype=dtype):
        if "exact" not in case.tags:
            continue
        output = tensors(case.response)["output"]
        output = output if layer in ("relu", "layer_norm", "rms_norm") else canonical(case, output)
        wanted = reference(layer, case)
        assert wanted.shape == output.shape, case.name
        for at in np.ndindex(output.shape):
            assert is_equal(float(output[at]), wanted[at]), (case.name, at, output[at], wanted[at])
        checked += 1
    assert checked >= 21


def test_joined_replicas_are_the_fractions() -> None:
    checked = 0
    for case in cases("sync_batch_norm"):
        if "exact" not in case.tags or "layout" in case.tags:
            continue
        sent, got = tensors(case.request), tensors(case.response)
        names = [name for name in sent if name.startswith("inputs.")]
        outputs = [got[name.replace("inputs", "outputs")] for name in names]
        parts = [(canonical(case, sent[name]), canonical(case, out))
                 for name, out in zip(names, outputs, strict=True)]  # fmt: skip
        wanted = batch_norm(case, np.concatenate([x for x, _ in parts]))
        output = np.concatenate([out for _, out in parts])
        for at in np.ndindex(output.shape):
            assert is_equal(float(output[at]), wanted[at]), (case.name, at)
        checked += 1
    assert checked >= 15


def test_a_wrong_number_is_found() -> None:
    case = next(c for c in cases("avg_pool1d") if "exact" in c.tags)
    output, wanted = tensors(case.response)["output"], reference("avg_pool1d", case)
    at = (0,) * output.ndim
    assert is_equal(output[at], wanted[at])
    assert not is_equal(np.nextafter(np.float32(output[at]), np.float32(9)), wanted[at])
