"""Random requests beside torch's own functions: the same numbers, the same refusals; and shape
requests beside compute requests.

Torch's own samples stand in `test_torch_samples.py`; here its functions meet random arguments.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.compute import Engine
from app.errors import EmptyWindow, RequestError
from app.layers import LAYERS, LayerSpec, shape_model
from tests._soak import SOAK, rounds
from tests.compute.test_torch_is_safe import random_body
from tests.conftest import LIMITS, compute

Body = dict[str, Any]
EXAMPLES = settings(max_examples=rounds(40, 800), deadline=None, derandomize=not SOAK)
ENGINE = Engine("cpu", LIMITS)
ODD = st.integers(0, 19).map(lambda number: int(number == 19) - int(number == 18))
"""Mostly 0, now and then what makes a number not fit."""


class Case(NamedTuple):
    """A request, and torch's own call that says the same."""

    body: Body
    call: Callable[[], torch.Tensor]


def pools(kind: str) -> list[Any]:
    return [getattr(F, f"{kind}_pool{dims}d") for dims in (1, 2, 3)]


def tensor(draw: st.DrawFn, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Numbers with ties, zeros of both signs, now and then not finite."""
    seed = draw(st.integers(0, 2**31))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    if seed % 3 == 0:
        x = x.round()
    if seed % 7 == 0 and x.numel():
        x.view(-1)[seed % x.numel()] = (float("nan"), float("inf"), -float("inf"))[seed % 3]
    return x


def sizes(draw: st.DrawFn, dims: int, low: int, high: int) -> Any:
    """One length, or one an axis; now and then one too short."""
    if draw(st.integers(0, 19)) == 0:
        return low - 1
    one = st.integers(low, high)
    return draw(one | st.lists(one, min_size=dims, max_size=dims))


def dtype_of(draw: st.DrawFn) -> torch.dtype:
    return draw(st.sampled_from([torch.float32, torch.float64]))


def image(draw: st.DrawFn, dims: int, dtype: torch.dtype, groups: int = 1) -> torch.Tensor:
    rows = draw(st.lists(st.integers(1, 9), min_size=dims, max_size=dims))
    shape = [draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), *rows]
    return tensor(draw, shape, dtype)


def window(draw: st.DrawFn, dims: int) -> Body:
    """Mostly one that fits a small image."""
    kernel = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims))
    padding: Any = [draw(st.integers(0, length // 2)) for length in kernel]
    if draw(st.integers(0, 9)) == 0:
        padding = sizes(draw, dims, 0, 3)
    return {
        "kernel_size": sizes(draw, dims, 1, 5) if draw(st.integers(0, 9)) == 0 else kernel,
        "stride": draw(st.none()) or sizes(draw, dims, 1, 4),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }


@st.composite
def max_pools(draw: st.DrawFn, dims: int) -> Case:
    x = image(draw, dims, dtype_of(draw))
    options = window(draw, dims) | {"dilation": draw(st.just(1) | st.integers(0, 3))}
    return Case({"input": x, **options}, lambda: pools("max")[dims - 1](x, **options))


@st.composite
def avg_pools(draw: st.DrawFn, dims: int) -> Case:
    x = image(draw, dims, dtype_of(draw))
    options = window(draw, dims) | {"count_include_pad": draw(st.booleans())}
    if dims > 1:
        options["divisor_override"] = draw(st.none() | st.integers(-3, 3))
    return Case({"input": x, **options}, lambda: pools("avg")[dims - 1](x, **options))


@st.composite
def adaptive_pools(draw: st.DrawFn, dims: int, kind: str) -> Case:
    x = image(draw, dims, dtype_of(draw))
    size = sizes(draw, dims, 0, 9)
    pool = pools(f"adaptive_{kind}")[dims - 1]
    return Case({"input": x, "output_size": size}, lambda: pool(x, size))


@st.composite
def convs(draw: st.DrawFn, dims: int) -> Case:
    groups = draw(st.integers(1, 3))
    x = image(draw, dims, dtype_of(draw), groups)
    own = max(1, x.shape[1] // groups + draw(ODD))
    out = max(1, groups * draw(st.integers(1, 3)) + draw(ODD))
    groups += draw(ODD)
    weight = tensor(draw, [out, own, *sizes_list(draw, dims)], x.dtype)
    options: Body = {
        "stride": sizes(draw, dims, 1, 3),
        "padding": sizes(draw, dims, 0, 3),
        "dilation": draw(st.just(1) | st.integers(0, 2)),
        "groups": groups,
    }
    bias = tensor(draw, [weight.shape[0] + draw(ODD)], x.dtype)
    conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return Case(
        {"input": x, "weight": weight, "bias": bias, **options},
        lambda: conv(x, weight, bias, **options),
    )


def sizes_list(draw: st.DrawFn, dims: int) -> list[int]:
    return draw(st.lists(st.integers(1, 3), min_size=dims, max_size=dims))


@st.composite
def batch_norms(draw: st.DrawFn, dims: int) -> Case:
    x = image(draw, dims, dtype_of(draw))
    channels, training = x.shape[1] + draw(ODD), draw(st.booleans())
    # Finite: torch multiplies an infinite weight by the mean, and answers NaN or not by its sign.
    mean, var, weight, bias = (
        tensor(draw, [channels], x.dtype).nan_to_num(1, 2, 3).abs() + 0.5 for _ in range(4)
    )
    eps = draw(st.sampled_from([1e-5, 0.1, 1.0]))
    momentum = draw(st.sampled_from([0.1, 0.0, 1.0]))
    body = {"input": x, "running_mean": mean, "running_var": var, "weight": weight, "bias": bias}
    return Case(
        {**body, "training": training, "eps": eps, "momentum": momentum},
        lambda: F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training, momentum, eps),
    )


@st.composite
def group_norms(draw: st.DrawFn) -> Case:
    groups, eps = draw(st.integers(1, 3)), draw(st.sampled_from([1e-5, 0.1]))
    x = image(draw, draw(st.integers(0, 3)), dtype_of(draw), groups)
    groups += draw(ODD | st.just(0))
    weight, bias = (tensor(draw, [x.shape[1]], x.dtype).nan_to_num(1, 2, 3) for _ in range(2))
    return Case(
        {"input": x, "num_groups": groups, "eps": eps, "weight": weight, "bias": bias},
        lambda: F.group_norm(x, groups, weight, bias, eps),
    )


@st.composite
def last_axes_norms(draw: st.DrawFn, name: str) -> Case:
    x = image(draw, draw(st.integers(0, 3)), dtype_of(draw))
    axes, eps = draw(st.integers(1, x.dim())), draw(st.sampled_from([1e-5, 0.1]))
    shape = list(x.shape[-axes:])
    if draw(st.integers(0, 9)) == 0:
        shape[0] += 1
    vectors = {"weight": tensor(draw, shape, x.dtype)}
    if name == "layer_norm":
        vectors["bias"] = tensor(draw, shape, x.dtype)
    function: Any = getattr(F, name)
    return Case(
        {"input": x, "normalized_shape": shape, "eps": eps, **vectors},
        lambda: function(x, shape, **vectors, eps=eps),
    )


@st.composite
def relus(draw: st.DrawFn) -> Case:
    x = tensor(draw, draw(st.lists(st.integers(0, 4), max_size=5)), dtype_of(draw))
    return Case({"input": x}, lambda: F.relu(x))


CASES: Mapping[str, st.SearchStrategy[Case]] = {
    **{f"max_pool{dims}d": max_pools(dims) for dims in (1, 2, 3)},
    **{f"avg_pool{dims}d": avg_pools(dims) for dims in (1, 2, 3)},
    **{
        f"adaptive_{kind}_pool{dims}d": adaptive_pools(dims, kind)
        for kind in ("max", "avg")
        for dims in (1, 2, 3)
    },
    **{f"conv{dims}d": convs(dims) for dims in (1, 2, 3)},
    **{f"batch_norm{dims}d": batch_norms(dims) for dims in (1, 2, 3)},
    "group_norm": group_norms(),
    "layer_norm": last_axes_norms("layer_norm"),
    "rms_norm": last_axes_norms("rms_norm"),
    "relu": relus(),
}


def per_axis(body: Body, field: str) -> list[int]:
    value, dims = body[field], body["input"].dim() - 2
    return value if isinstance(value, list) else [value] * dims


def longer_than_the_input(body: Body) -> bool:
    return any(
        kernel > length
        for kernel, length in zip(
            per_axis(body, "kernel_size"), body["input"].shape[2:], strict=True
        )
    )


def dilated_padding(body: Body) -> bool:
    """More than half the kernel, and no more than half of what it spans."""
    axes = zip(*(per_axis(body, f) for f in ("padding", "kernel_size", "dilation")), strict=True)
    return any(2 * p > k and 2 * p <= (k - 1) * d + 1 for p, k, d in axes)


def one_value_a_group(body: Body) -> bool:
    return bool(body["input"][0].numel() == body["num_groups"])


ANSWERED_HERE_ALONE: Mapping[str, Callable[[Body], bool]] = {
    # Torch holds the padding against the kernel, not against what it spans with its dilation.
    **{f"max_pool{dims}d": dilated_padding for dims in (1, 2, 3)},
    # Torch's 1d and 2d look at the padded input, its 3d does not.
    "avg_pool3d": longer_than_the_input,
    # Torch refuses one value in one sample; in two samples its variance of one value is rounding.
    "group_norm": one_value_a_group,
}


COMPUTED_BY_TORCH = re.compile(r"(adaptive_)?max_pool|conv|relu")
"""Layers whose forward pass is one call of torch's on the numbers as sent. Averages and norms sum
in float64 or centre their input first, where torch's float32 would lose digits."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are quicker so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ours(layer: str, body: Body) -> torch.Tensor | Exception:
    dtype = str(body["input"].dtype).removeprefix("torch.")
    try:
        output: torch.Tensor = compute(ENGINE, layer, {**body, "dtype": dtype})["output"]
    except (RequestError, ValidationError) as error:
        return error
    return output


def torchs(call: Callable[[], torch.Tensor]) -> torch.Tensor | Exception:
    try:
        return call()
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        return error


def check_same(layer: str, case: Case) -> bool:
    """Whether both answer."""
    found, expected = ours(layer, case.body), torchs(case.call)
    shown = f"{ {k: getattr(v, 'shape', v) for k, v in case.body.items()} }"
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        if COMPUTED_BY_TORCH.match(layer):
            assert bits(found) == bits(expected), shown
        elif layer != "group_norm" or not one_value_a_group(case.body):
            # Torch's own float32 is this far off; tests/reference tells how far Lamina is.
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)
        return True
    if isinstance(found, Exception) and isinstance(expected, Exception):
        return False
    if isinstance(found, EmptyWindow):
        return False  # torch's answer is -inf, or 0 divided by 0
    differs = ANSWERED_HERE_ALONE.get(layer)
    allowed = differs is not None and isinstance(found, torch.Tensor) and differs(case.body)
    assert allowed, f"{shown}: ours {found!r:.200}, torch's {expected!r:.200}"
    return False


def bits(tensor: torch.Tensor) -> tuple[torch.Size, bytes]:
    """With one pattern for every NaN: which of two is kept, no one promises."""
    whole = torch.where(tensor.isnan(), torch.nan, tensor)
    return tensor.shape, whole.contiguous().numpy().tobytes()


@pytest.mark.parametrize("layer", CASES)
def test_the_same_numbers_or_both_refuse(layer: str) -> None:
    answered = 0

    @EXAMPLES
    @given(CASES[layer])
    def check(case: Case) -> None:
        nonlocal answered
        answered += check_same(layer, case)

    check()
    assert answered > EXAMPLES.max_examples / 10


def shape_request(spec: LayerSpec, body: Body) -> Body:
    """The question for the shape that the request's answer has."""
    ports = {port.name for port in spec.inputs} | {spec.gradient, "dtype", "explain"}
    fields = {name: value for name, value in body.items() if name not in ports}
    if spec.many:
        return fields | {"input_shapes": [x.shape for x in body["inputs"]]}
    if spec.family == "conv":
        weight = body["weight"]
        turned = body["weight_layout"] == "hwio"
        fields |= {
            "out_channels": weight.shape[-1 if turned else 0],
            "kernel_size": weight.shape[:-2] if turned else weight.shape[2:],
        }
    return fields | {"input_shape": body["input"].shape}


@settings(max_examples=rounds(300, 6000), deadline=None)
@given(st.integers(0, 2**32))
def test_the_shape_that_is_foretold_is_the_shape_that_comes(seed: int) -> None:
    """And what has no shape is not computed; bounds on size and on numbers refuse more."""
    rng = random.Random(seed)
    spec = rng.choice(list(LAYERS.values()))
    body = random_body(rng, spec)
    shown = f"{spec.name} { {k: getattr(v, 'shape', v) for k, v in body.items()} }"
    foretold: Any = None
    try:
        call: Any = shape_model(spec).model_validate(shape_request(spec, body))
        answer = ENGINE.shape(spec, call)
        foretold = answer["output_shapes" if spec.many else "output_shape"]
    except (RequestError, ValidationError):
        pass
    try:
        outputs = compute(ENGINE, spec, body)[spec.result]
    except (RequestError, ValidationError):
        return
    came = [tuple(output.shape) for output in (outputs if spec.many else [outputs])]
    assert foretold == (came if spec.many else came[0]), shown
