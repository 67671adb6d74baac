"""Scenarios of two deviations at once, whole conventions, and clients that nothing explains."""

from typing import Any

import numpy as np

from tests.oracle._bodies import DIMS, convolution, few, image, norm, pool, stats
from tests.oracle._numbers import distinct, normal
from tests.oracle._request import Array
from tests.oracle._scenario import Scenario, named, unexplained
from tests.oracle.rows_pool_faults import negative, uneven
from tests.oracle.rows_pools import with_nan

FIRST = {"layout": "channels_first"}
INDICES = ("output", "indices")
BACK = ("output", "gradients.input")
RUNNING = ("output", "running_stats.mean", "running_stats.var")

PAIRS: tuple[Scenario, ...] = (
    named("pair: ceil_mode and padding not counted", "avg_pool2d",
          pool(2, kernel_size=3, padding=1, stride=2),
          options={"ceil_mode": True, "count_include_pad": False}),
    named("pair: stride and padding not counted", "avg_pool1d",
          pool(1, kernel_size=3, padding=1, stride=1),
          options={"stride": 3, "count_include_pad": False}),
    named("pair: ceil_mode and overhang counted", "avg_pool2d",
          pool(2, kernel_size=3, stride=3, input=normal(1, 2, 7, 7)),
          options={"ceil_mode": True, "overhang_divisor": "kernel"}),
    named("pair: same_upper and padding not counted", "avg_pool2d",
          pool(2, kernel_size=3, stride=2), options={"padding": "same_upper",
                                                     "count_include_pad": False}),
    named("pair: divisor and ceil_mode", "avg_pool2d",
          pool(2, kernel_size=3, stride=2, divisor_override=5, input=normal(1, 2, 6, 6)),
          options={"divisor_override": None, "ceil_mode": True}),
    named("pair: tf indices and ceil_mode", "max_pool2d", pool(2, return_indices=True),
          options={"index_base": "tf", "ceil_mode": True}, send=INDICES),
    named("pair: onnx indices in column order", "max_pool2d", pool(2, return_indices=True),
          options={"index_base": "onnx", "storage_order": "column"}, send=INDICES),
    named("pair: ties and NaN", "max_pool1d",
          {"input": np.array([[[1.0, 1, np.nan, 2, 3, 3, 0, 0]]]), "kernel_size": 4,
           "grad_output": "ones"}, options={"nan": "ignore", "tie": "split"}),
    named("pair: ties and same_lower", "max_pool2d",
          pool(2, input=few(2), padding="same_upper", stride=1),
          options={"tie": "all", "padding": "same_lower"}),
    named("pair: ceil_mode and true sums", "lp_pool2d",
          pool(2, norm_type=2, kernel_size=3, stride=2),
          options={"lp_partial": "sum", "ceil_mode": True}),
    named("pair: estimator and momentum", "batch_norm2d", norm(2, scale=4),
          options={"running_var_estimator": "biased", "momentum": 0.9}),
    named("pair: estimator and weights", "batch_norm2d", norm(2, scale=4),
          options={"running_var_estimator": "biased", "momentum_weights": "running"}),
    named("pair: momentum of keras and its weights", "batch_norm1d", norm(1, scale=4, eps=1e-3),
          options={"momentum": 0.99, "momentum_weights": "running"}),
    named("pair: estimator and eps", "batch_norm3d", norm(3, scale=2),
          options={"running_var_estimator": "biased", "eps": 1e-3}),
    named("pair: groups and eps", "group_norm", norm(2, running=False, num_groups=2),
          options={"num_groups": 1, "eps": 1e-3}),
    named("pair: axis and eps", "layer_norm", {"input": normal(2, 3, 4) * 0.0625, "axis": -1},
          options={"axis": 1, "eps": 1e-3}),
    named("pair: offset and eps", "rms_norm",
          {"input": normal(3, 8) * 0.0625, "axis": -1, "weight": normal(8), "eps": 1e-3},
          options={"weight_offset": 1, "eps": 1e-6}),
    named("pair: hwio and valid", "conv2d", convolution(2, padding=1),
          options={"weight_layout": "hwio", "padding": "valid"}),
    named("pair: layout and hwio", "conv2d",
          {"input": normal(2, 5, 5, 5), "weight": normal(5, 5, 5, 5, seed=1), "padding": 2,
           **FIRST}, options={"layout": "channels_last", "weight_layout": "hwio"}),
    named("pair: keepdims and layout", "global_avg_pool", {"input": normal(2, 4, 4, 4), **FIRST},
          options={"keepdims": False, "layout": "channels_last"}),
)  # fmt: skip
BOTH: tuple[Scenario, ...] = (
    named("both: end padding dropped, ceil_mode", "avg_pool2d",
          pool(2, kernel_size=4, stride=3, padding=[[1, 2]], input=normal(1, 2, 6, 6)),
          fault="end-padding-dropped", options={"ceil_mode": True}),
    named("both: zero padding, stride 1", "max_pool2d",
          pool(2, input=negative(2), padding=1, kernel_size=3), fault="zero-padded-maximum",
          options={"stride": 1}, send=("output",)),
    named("both: zero padding, same_upper", "max_pool1d", pool(1, input=negative(1), stride=1),
          fault="zero-padded-maximum", options={"padding": "same_upper"}, send=("output",)),
    named("both: NaN if first, ceil_mode", "max_pool2d", {"input": with_nan(2), "kernel_size": 2},
          fault="nan-if-first", options={"ceil_mode": True}),
    named("both: tf indices from one", "max_pool2d", pool(2, return_indices=True),
          fault="index-from-one", options={"index_base": "tf"}, send=INDICES),
    named("both: last tie, ceil_mode", "max_pool2d", pool(2, input=few(2)), fault="tie-last",
          options={"ceil_mode": True}, send=BACK),
    named("both: overwritten, padding not counted", "avg_pool2d",
          pool(2, kernel_size=3, stride=2, padding=1), fault="overlap-overwritten",
          options={"count_include_pad": False}),
    named("both: undivided, stride 1", "avg_pool1d", pool(1, kernel_size=3),
          fault="gradient-undivided", options={"stride": 1}),
    named("both: dilation ignored, padding not counted", "avg_pool2d",
          pool(2, dilation=2, padding=1, stride=1), fault="dilation-ignored",
          options={"count_include_pad": False}),
    named("both: variance terms, eps", "batch_norm2d", norm(2), fault="variance-term-missing",
          options={"eps": 1e-3}),
    named("both: running std, estimator", "batch_norm2d", norm(2, scale=4), fault="running-std",
          options={"running_var_estimator": "biased"}, send=RUNNING),
    named("both: two updates, momentum weights", "batch_norm1d",
          norm(1, scale=4, momentum=0.3), fault="running-updated-twice",
          options={"momentum_weights": "running"}, send=RUNNING),
    named("both: eps outside, eps of keras", "batch_norm2d", norm(2), fault="eps-outside-root",
          options={"eps": 1e-3}, send=BACK),
    named("both: interleaved, one eps", "group_norm", norm(2, running=False, num_groups=2),
          fault="groups-interleaved", options={"eps": 1e-3}),
    named("both: unbiased, eps", "layer_norm",
          {"input": normal(4, 6) * 0.0625, "axis": -1}, fault="variance-unbiased-output",
          options={"eps": 1e-3}),
    named("both: mean of the loss, layer norm's axis", "layer_norm",
          {"input": normal(2, 3, 4), "axis": -1, "grad_output": normal(2, 3, 4, seed=1)},
          fault="loss-mean", options={"axis": 1}, send=BACK),
    named("both: flipped, hwio", "conv2d", convolution(2), fault="kernel-flipped",
          options={"weight_layout": "hwio"}),
    named("both: flipped, same_upper", "conv1d", convolution(1), fault="kernel-flipped",
          options={"padding": "same_upper"}),
    named("both: fixed stride, layout", "adaptive_avg_pool2d",
          {"input": normal(2, 5, 5, 5), "output_size": 3}, fault="adaptive-fixed-stride",
          options={"layout": "channels_last"}),
    named("both: undivided, no dims kept", "global_avg_pool",
          {"input": image(2), "grad_output": "ones"}, fault="gradient-undivided",
          options={"keepdims": False}),
)  # fmt: skip


def conventions() -> tuple[Scenario, ...]:
    """Each framework's whole way, in requests that name another's."""
    norms: dict[str, Any] = norm(2, scale=2) | FIRST
    average = pool(2, kernel_size=3, padding=1, **FIRST)
    rows = [
        *(named(f"convention: {name} batch norm", "batch_norm2d", norms,
                options={"convention": name}) for name in ("keras", "flax")),
        named("convention: torch batch norm in keras", "batch_norm2d",
              norms | {"convention": "keras"}, options={"convention": "torch"}),
        named("convention: keras batch norm of (N, C)", "batch_norm1d",
              {"input": normal(6, 4), **stats()}, options={"convention": "keras"}),
        named("convention: keras batch norm, layout left out", "batch_norm2d",
              {k: v for k, v in norms.items() if k != "layout"},
              options={"convention": "keras", "layout": "channels_first"}),
        named("convention: onnx average", "avg_pool2d", average, options={"convention": "onnx"}),
        named("convention: onnx maximum with indices", "max_pool2d",
              pool(2, kernel_size=3, return_indices=True), options={"convention": "onnx"},
              send=INDICES),
        named("convention: onnx lp", "lp_pool2d", pool(2, norm_type=1),
              options={"convention": "onnx"}),
        named("convention: keras lp", "lp_pool1d",
              pool(1, norm_type=1, kernel_size=3, ceil_mode=True, **FIRST),
              options={"convention": "keras"}),
        named("convention: onnx batch norm in keras", "batch_norm3d",
              norm(3, scale=2) | FIRST | {"convention": "keras"},
              options={"convention": "onnx"}),
        named("convention: keras global average", "global_avg_pool",
              {"input": normal(2, 3, 3, 3)}, options={"convention": "keras"}),
        named("convention: flax convolution", "conv2d",
              {"input": normal(2, 5, 5, 5), "weight": normal(5, 5, 5, 5, seed=1)},
              options={"convention": "flax"}),
        named("convention: keras convolution", "conv2d",
              {"input": normal(2, 5, 5, 5), "weight": normal(5, 5, 5, 5, seed=1)},
              options={"convention": "keras"}),
        named("convention: torch average in flax", "avg_pool2d",
              {"input": normal(2, 5, 5, 5), "kernel_size": 2, "convention": "flax"},
              options={"convention": "torch"}),
        named("convention: keras maximum with indices", "max_pool1d",
              {"input": distinct(2, 4, 4), "kernel_size": 2, "return_indices": True},
              options={"convention": "keras"}),
    ]  # fmt: skip
    return tuple(rows)


def noise(scenario: Scenario, send: tuple[str, ...]) -> dict[str, Array]:
    """Random numbers of the shapes of the right results."""
    found = scenario.results()
    return {name: normal(*found[name].shape, seed=99) for name in send}


def noisy(layer: str, body: dict[str, Any], *send: str) -> Scenario:
    wished = send or ("output",)
    sent = noise(named("", layer, body), wished)
    return unexplained(f"random: {layer} {' '.join(wished)}", layer, body, sent=sent)


RANDOM: tuple[Scenario, ...] = (
    *(noisy(f"{kind}_pool{d}d", pool(d, **more)) for d in DIMS
      for kind, more in (("max", {}), ("avg", {}), ("lp", {"norm_type": 2}))),
    noisy("adaptive_avg_pool2d", uneven(2), "output", "gradients.input"),
    noisy("adaptive_max_pool2d", uneven(2), "output", "gradients.input"),
    noisy("global_avg_pool", {"input": image(2)}),
    noisy("batch_norm1d", norm(1), *RUNNING),
    noisy("batch_norm2d", norm(2), "gradients.input"),
    noisy("batch_norm3d", norm(3), "running_stats.var"),
    noisy("instance_norm", norm(2, running=False)),
    noisy("group_norm", norm(2, running=False, num_groups=2), "output", "gradients.weight"),
    noisy("layer_norm", {"input": normal(3, 8), "axis": -1}),
    noisy("rms_norm", {"input": normal(3, 8), "axis": -1}),
    noisy("conv1d", convolution(1)),
    noisy("conv2d", convolution(2), "gradients.weight"),
    noisy("conv3d", convolution(3)),
    noisy("relu", {"input": normal(3, 4)}),
    unexplained("one wrong element: avg_pool2d", "avg_pool2d", pool(2),
                sent={"output": named("", "avg_pool2d", pool(2)).results()["output"]
                      + np.eye(1, 54, 20).reshape(2, 3, 3, 3)}),
    unexplained("one option and noise in another tensor", "batch_norm2d", norm(2, scale=4),
                sent={**named("", "batch_norm2d", norm(2, scale=4),
                              options={"running_var_estimator": "biased"},
                              send=("running_stats.var",)).results(),
                      "running_stats.mean": normal(4, seed=50)}),
    unexplained("a shape that nothing gives", "max_pool2d", pool(2),
                sent={"output": normal(2, 3, 5, 1)}),
    unexplained("another rank", "avg_pool2d", pool(2), sent={"output": normal(54)}),
    unexplained("only the sign", "conv2d", convolution(2),
                sent={"output": -named("", "conv2d", convolution(2)).results()["output"]}),
)  # fmt: skip
ROWS = (*PAIRS, *BOTH, *conventions(), *RANDOM)
