"""Torch's own operator samples and error inputs: Lamina answers what torch does, or refuses.

The samples are those that torch tests itself with: `op_db`, and `module_db` for what stands only
there. Each row of OPS says what becomes of them, so that none is passed over in silence.
"""

import importlib
import re
import sys
import types
import unittest
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from app.compute import Engine
from app.errors import RequestError
from app.layers import LAYERS, compute_model
from tests.conftest import compute

Body = dict[str, Any]
Request = tuple[str, Body]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
PARAMETERS = ("weight", "bias", "running_mean", "running_var")
LEAVES = ("input", "weight", "bias")
LEFT_OUT_IS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}

ANSWERED, REFUSED = "answered as torch does", "refused as torch does"

# Samples that no request can say.
NO_LAYER_OF_THE_RANK = "batch norm of an input without a channel axis"
MIXED_DTYPES = "tensors of several dtypes: a request has one"
INSTANCE_EVAL = "instance norm with running statistics: Lamina's keeps none"


class Difference(NamedTuple):
    """Where Lamina differs from torch on purpose, and over which field; `holds` of such a body."""

    reason: str
    field: str
    holds: Callable[[Body], bool]


MOMENTUM = "momentum outside [0, 1] is no average: torch runs on to senseless statistics"
EPS = "a negative eps: torch takes the root of negative numbers"
STRIDED_SAME = "'same' with a stride: defined here as in the other frameworks, not in torch"

REFUSED_ON_PURPOSE = (
    Difference(MOMENTUM, "momentum", lambda body: not 0 <= body.get("momentum", 0) <= 1),
    Difference(EPS, "eps", lambda body: body.get("eps", 0) < 0),
)
ANSWERED_ON_PURPOSE = (
    Difference(
        STRIDED_SAME,
        "padding",
        lambda body: body.get("padding") == "same" and body.get("stride", 1) not in (1, [1]),
    ),
)


def _plain(layer: str, body: Body) -> Request | str:
    return layer, body | {"batched": body["input"].dim() > 0}


def _window(layer: str, body: Body) -> Request | str:
    if body.get("stride") == []:
        body["stride"] = None
    return layer, body | {"batched": body["input"].dim() != int(layer[-2]) + 1}


def _unpool(layer: str, body: Body) -> Request | str:
    if "output_size" in body:
        body["output_size"] = body["output_size"][-int(layer[-2]) :]
    return _window(layer, body)


def _batch_norm(layer: str, body: Body) -> Request | str:
    rank = body["input"].dim()
    if rank < 2:
        return NO_LAYER_OF_THE_RANK
    return f"batch_norm{max(rank - 2, 1)}d", {"training": False, **body}


def _instance_norm(layer: str, body: Body) -> Request | str:
    """The output depends on running statistics only where those of the input are not used."""
    if not body.pop("use_input_stats", True):
        return INSTANCE_EVAL
    unused = ("running_mean", "running_var", "momentum")
    return layer, {name: value for name, value in body.items() if name not in unused}


class Op(NamedTuple):
    """One operator: its arguments behind the input, its translation, and what becomes of it.

    `samples` and `errors` name all outcomes of its samples, in each dtype, and error inputs, and
    count them from below.
    """

    arguments: str
    translate: Callable[[str, Body], Request | str]
    samples: Mapping[str, int]
    errors: Mapping[str, int]


MAX_POOL = "kernel_size stride padding dilation ceil_mode return_indices"
AVG_POOL = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
UNPOOL = "indices kernel_size stride padding output_size"
LP_POOL = "norm_type kernel_size stride ceil_mode"
CONV = "weight bias stride padding dilation groups"
BATCH_NORM = "running_mean running_var weight bias training momentum eps"
INSTANCE_NORM = "running_mean running_var weight bias use_input_stats momentum eps"

OPS: Mapping[str, Op] = {
    "max_pool1d": Op(MAX_POOL, _window, {ANSWERED: 864}, {REFUSED: 24}),
    "max_pool2d": Op(MAX_POOL, _window, {ANSWERED: 1440}, {REFUSED: 7}),
    "max_pool3d": Op(MAX_POOL, _window, {ANSWERED: 576}, {REFUSED: 7}),
    "avg_pool1d": Op(AVG_POOL, _window, {ANSWERED: 9}, {REFUSED: 2}),
    "avg_pool2d": Op(AVG_POOL, _window, {ANSWERED: 7}, {REFUSED: 5}),
    "avg_pool3d": Op(AVG_POOL, _window, {ANSWERED: 8}, {REFUSED: 6}),
    "adaptive_avg_pool1d": Op("output_size", _window, {ANSWERED: 6}, {REFUSED: 2}),
    "adaptive_avg_pool2d": Op("output_size", _window, {ANSWERED: 10}, {REFUSED: 3}),
    "adaptive_avg_pool3d": Op("output_size", _window, {ANSWERED: 12}, {REFUSED: 3}),
    "adaptive_max_pool1d": Op("output_size return_indices", _window, {ANSWERED: 8}, {REFUSED: 2}),
    "adaptive_max_pool2d": Op("output_size return_indices", _window, {ANSWERED: 24}, {REFUSED: 3}),
    "adaptive_max_pool3d": Op("output_size return_indices", _window, {ANSWERED: 20}, {REFUSED: 3}),
    "lp_pool1d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "lp_pool2d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "lp_pool3d": Op(LP_POOL, _window, {ANSWERED: 3}, {}),
    "max_unpool1d": Op(UNPOOL, _unpool, {ANSWERED: 144}, {REFUSED: 1}),
    "max_unpool2d": Op(UNPOOL, _unpool, {ANSWERED: 288}, {REFUSED: 1}),
    "max_unpool3d": Op(UNPOOL, _unpool, {ANSWERED: 96}, {REFUSED: 1}),
    "max_unpool1d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "max_unpool2d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "max_unpool3d grad": Op(UNPOOL, _unpool, {ANSWERED: 1}, {}),
    "batch_norm": Op(
        BATCH_NORM, _batch_norm, {ANSWERED: 7, MOMENTUM: 3, NO_LAYER_OF_THE_RANK: 2}, {}
    ),
    "batch_norm without_cudnn": Op(
        BATCH_NORM, _batch_norm, {ANSWERED: 7, MOMENTUM: 3, NO_LAYER_OF_THE_RANK: 2}, {}
    ),
    "instance_norm": Op(INSTANCE_NORM, _instance_norm, {ANSWERED: 9}, {}),
    "group_norm": Op("num_groups weight bias eps", _plain, {ANSWERED: 17, EPS: 4}, {REFUSED: 2}),
    "layer_norm": Op("normalized_shape weight bias eps", _plain, {ANSWERED: 5, EPS: 1}, {}),
    "native_layer_norm": Op(
        "normalized_shape weight bias eps", _plain, {ANSWERED: 16, EPS: 4}, {REFUSED: 4}
    ),
    "rms_norm": Op("normalized_shape weight eps", _plain, {ANSWERED: 5, EPS: 1}, {REFUSED: 3}),
    "conv1d": Op(CONV, _window, {ANSWERED: 10}, {REFUSED: 8, MIXED_DTYPES: 2}),
    "conv2d": Op(CONV, _window, {ANSWERED: 30}, {REFUSED: 8, MIXED_DTYPES: 2}),
    "conv3d": Op(CONV, _window, {ANSWERED: 20}, {REFUSED: 7, MIXED_DTYPES: 2, STRIDED_SAME: 1}),
    "relu": Op("inplace", _plain, {ANSWERED: 4}, {}),
}

RAW = "below torch's public functions; its samples are those of the function above it"
NOT_A_LAYER = "Lamina has no such layer"
NOT_WALKED = {
    "max_pool2d_with_indices_backward": RAW,
    "native_batch_norm": RAW,
    "_native_batch_norm_legit": RAW,
    "_batch_norm_with_update": RAW,
    "native_group_norm": RAW,
    "fractional_max_pool2d": NOT_A_LAYER,
    "fractional_max_pool3d": NOT_A_LAYER,
    "local_response_norm": NOT_A_LAYER,
    "conv_transpose1d": NOT_A_LAYER,
    "conv_transpose2d": NOT_A_LAYER,
    "conv_transpose3d": NOT_A_LAYER,
    "leaky_relu": NOT_A_LAYER,
    "prelu": NOT_A_LAYER,
    "relu6": NOT_A_LAYER,
    "rrelu": NOT_A_LAYER,
}


class Source(NamedTuple):
    """Where torch keeps an operator's samples; a sample has `input`, `args` and `kwargs`."""

    function: Callable[..., Any]
    samples: Callable[[torch.dtype], Iterable[Any]]
    errors: Callable[[], Iterable[Any]]


@pytest.fixture(autouse=True)
def _seeded_on_one_thread() -> Iterator[None]:
    """Not by `torch.manual_seed`, whose first call imports the compiler for seconds; and threads
    that wait for each other over tiny tensors take minutes on a busy machine.
    """
    torch.default_generator.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sources() -> Mapping[str, Source]:
    """By name. The import of torch's test code may neither need expecttest nor freeze flags."""
    stand_in = types.ModuleType("expecttest")
    vars(stand_in)["TestCase"] = unittest.TestCase
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "expecttest", stand_in)
        patch.setattr(torch.backends, "disable_global_flags", lambda: None)
        internal = "torch.testing._internal"
        ops: Any = importlib.import_module(f"{internal}.common_methods_invocations")
        modules: Any = importlib.import_module(f"{internal}.common_modules")
    found = {_name(op): _of_op(op) for op in ops.op_db}
    for info in modules.module_db:
        if match := re.fullmatch(r"nn\.LPPool(\d)d", info.name):
            name = f"lp_pool{match[1]}d"
            found[name] = _of_module(info, getattr(F, name), ops.SampleInput)
    return found


def _name(op: Any) -> str:
    return f"{op.name.removeprefix('nn.functional.')} {op.variant_test_name}".strip()


def _of_op(op: Any) -> Source:
    def samples(dtype: torch.dtype) -> Iterable[Any]:
        return op.sample_inputs("cpu", dtype, set_seed=False)  # type: ignore[no-any-return]

    def errors() -> list[Any]:
        if op.error_inputs_func is None:
            return []
        return [error.sample_input for error in op.error_inputs("cpu", set_seed=False)]

    return Source(op.op, samples, errors)


def _of_module(info: Any, function: Callable[..., Any], sample: Callable[..., Any]) -> Source:
    def samples(dtype: torch.dtype) -> list[Any]:
        inputs = info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=False, training=True
        )
        made = [(i.forward_input.args[0], i.constructor_input) for i in inputs]
        return [sample(x, args=options.args, kwargs=options.kwargs) for x, options in made]

    return Source(function, samples, list)


def _bound(op: Op, sample: Any) -> dict[str, Any]:
    """The operator's arguments by name."""
    by_place = zip(op.arguments.split(), sample.args, strict=False)
    return {"input": sample.input, **dict(by_place), **sample.kwargs}


def _request(name: str, op: Op, arguments: Mapping[str, Any]) -> Request | str:
    """The layer and body that say the same, or why none does."""
    body: Body = {
        key: list(value) if isinstance(value, (tuple, list)) else value
        for key, value in arguments.items()
        if not (value is None and key in PARAMETERS)
    }
    dtypes = {v.dtype for k, v in body.items() if isinstance(v, torch.Tensor) and k != "indices"}
    if len(dtypes) > 1:
        return MIXED_DTYPES
    body["dtype"] = str(body["input"].dtype).removeprefix("torch.")
    layer = name.split()[0].removeprefix("native_")
    return op.translate(layer, body)


def _refusal(engine: Engine, layer: str, body: Body) -> str | None:
    """The domain error that comes, and not for a field that the layer does not have."""
    assert body.keys() <= compute_model(LAYERS[layer]).model_fields.keys()
    try:
        compute(engine, layer, body)
    except (RequestError, ValidationError) as refusal:
        return str(refusal)
    return None


def _check_outcomes(outcomes: Counter[str], expected: Mapping[str, int]) -> None:
    assert outcomes.keys() == expected.keys()
    assert outcomes >= Counter(expected), f"expected at least {expected}"


def _difference(differences: Iterable[Difference], body: Body) -> Difference | None:
    return next((d for d in differences if d.holds(body)), None)


def _described(layer: str, body: Body) -> str:
    shown = {k: tuple(v.shape) if isinstance(v, torch.Tensor) else v for k, v in body.items()}
    return f"{layer} {shown}"


def _check_answer(
    engine: Engine, layer: str, body: Body, function: Callable[..., Any], arguments: Body
) -> None:
    """Output and indices of the sample as it is; gradients and running statistics of the sample
    with ones and zeros for the parameters that it leaves out. Torch computes in float64: its
    float32 is less precise than what is held against it.
    """
    case = _described(layer, body)
    dtype = arguments["input"].dtype
    if layer == "rms_norm" and arguments.get("eps") is None:
        arguments = {**arguments, "eps": torch.finfo(dtype).eps}
    expected, indices = _run(function, _widened(arguments))
    grad_output = torch.randn_like(expected).to(dtype)
    answer = compute(engine, layer, {**body, "grad_output": grad_output})

    def close(actual: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(
            actual.to(wanted),
            wanted,
            rtol=tolerance,
            atol=tolerance * max(1.0, float(wanted.nan_to_num(0, 0, 0).abs().amax()))
            if wanted.numel()
            else tolerance,
            equal_nan=True,
            msg=lambda text: f"{what} of {case}: {text}",
        )

    close(answer["output"], expected, "output")
    assert ("indices" in answer) is body.get("return_indices", False), case
    if "indices" in answer:
        assert torch.equal(answer["indices"], indices), case

    running = answer.get("running_stats", {})
    assert bool(running) is body.get("training", False), case
    updated = {f"running_{key}": running[key] for key in ("mean", "var") if running}
    filled = _widened(arguments)
    for name, tensor in {**answer["gradients"], **updated}.items():
        if filled.get(name) is None:
            filled[name] = torch.full_like(tensor.double(), LEFT_OUT_IS[name])
    leaves = {name: filled[name].requires_grad_() for name in LEAVES if name in answer["gradients"]}
    assert leaves.keys() == answer["gradients"].keys(), case
    assert all(name in leaves for name in LEAVES if arguments.get(name) is not None), case
    output, _ = _run(function, filled)
    gradients = torch.autograd.grad(output, tuple(leaves.values()), grad_output.double())
    for name, gradient in zip(leaves, gradients, strict=True):
        if layer.startswith("lp_pool"):
            gradient = torch.where(_seen(layer, arguments), gradient, 0.0)
        close(answer["gradients"][name], gradient, f"gradients.{name}")
    for name, tensor in updated.items():
        close(tensor, filled[name], name)


def _widened(arguments: Body) -> Body:
    """A copy, with float64 for every float."""
    return {
        name: (value.double() if value.is_floating_point() else value).clone()
        if isinstance(value, torch.Tensor)
        else value
        for name, value in arguments.items()
    }


def _seen(layer: str, arguments: Body) -> torch.Tensor:
    """Which elements some window holds: torch gives the others 0 times the power's derivative."""
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[int(layer[-2]) - 1]
    x = torch.ones_like(arguments["input"]).requires_grad_()
    taken = ("kernel_size", "stride", "ceil_mode")
    output = pool(x, **{name: arguments[name] for name in taken if name in arguments})
    (share,) = torch.autograd.grad(output.sum(), x)
    return share != 0


def _run(function: Callable[..., Any], arguments: Body) -> tuple[torch.Tensor, Any]:
    result = function(**arguments)
    return (result[0], result[1]) if isinstance(result, tuple) else (result, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("name", OPS)
def test_each_sample_is_answered_as_torch_does_or_stands_in_a_table(
    engine: Engine, sources: Mapping[str, Source], name: str, dtype: torch.dtype
) -> None:
    op, source, outcomes = OPS[name], sources[name], Counter[str]()
    for sample in source.samples(dtype):
        arguments = _bound(op, sample)
        request = _request(name, op, arguments)
        if isinstance(request, str):
            outcomes[request] += 1
        elif difference := _difference(REFUSED_ON_PURPOSE, request[1]):
            refusal = _refusal(engine, *request)
            assert refusal is not None, _described(*request)
            assert difference.field in refusal
            outcomes[difference.reason] += 1
        else:
            _check_answer(engine, *request, source.function, arguments)
            outcomes[ANSWERED] += 1
    _check_outcomes(outcomes, op.samples)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", OPS)
def test_each_error_input_is_refused_or_stands_in_a_table(
    engine: Engine, sources: Mapping[str, Source], name: str
) -> None:
    op, outcomes = OPS[name], Counter[str]()
    for sample in sources[name].errors():
        request = _request(name, op, _bound(op, sample))
        if isinstance(request, str):
            outcomes[request] += 1
        elif difference := _difference(ANSWERED_ON_PURPOSE, request[1]):
            assert _refusal(engine, *request) is None, _described(*request)
            outcomes[difference.reason] += 1
        else:
            assert _refusal(engine, *request) is not None, _described(*request)
            outcomes[REFUSED] += 1
    _check_outcomes(outcomes, op.errors)


def test_each_operator_of_these_families_is_walked_or_named(sources: Mapping[str, Source]) -> None:
    family = re.compile(r"pool|conv|relu|(batch|group|instance|layer|response|rms)_norm")
    assert {name for name in sources if family.search(name)} == OPS.keys() | NOT_WALKED.keys()
