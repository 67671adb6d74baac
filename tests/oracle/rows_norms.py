"""Scenarios of normalisations and convolutions: options that frameworks disagree on."""

from typing import Any

from tests.oracle._bodies import DIMS, convolution, norm, stats
from tests.oracle._numbers import normal
from tests.oracle._scenario import Scenario, named

RUNNING = ("output", "running_stats.mean", "running_stats.var")


def square(**more: Any) -> dict[str, Any]:
    """A batch norm that either layout can read."""
    return {"input": normal(2, 4, 4, 4, seed=1), "weight": normal(4, seed=2), **stats(), **more}


BATCH: tuple[Scenario, ...] = tuple(
    row
    for d in DIMS
    for layer in (f"batch_norm{d}d",)
    for row in (
        named(f"{layer} running variance biased", layer, norm(d, scale=4),
              options={"running_var_estimator": "biased"}, alone=True),
        named(f"{layer} running variance unbiased", layer, norm(d, scale=4, convention="onnx"),
              options={"running_var_estimator": "unbiased"}, alone=True),
        named(f"{layer} momentum 0.99", layer, norm(d), options={"momentum": 0.99}),
        named(f"{layer} momentum 0.9", layer, norm(d, momentum=0.3), options={"momentum": 0.9}),
        named(f"{layer} momentum null", layer, norm(d, num_batches_tracked=4),
              options={"momentum": None}, alone=True),
        named(f"{layer} momentum weights the running ones", layer, norm(d),
              options={"momentum_weights": "running"}),
        named(f"{layer} eps of keras", layer, norm(d), options={"eps": 1e-3}),
        named(f"{layer} eps of torch", layer, norm(d, eps=1e-3), options={"eps": 1e-5}),
        named(f"{layer} evaluates", layer, norm(d), options={"training": False},
              send=("output", "gradients.input")),
        named(f"{layer} trains", layer, norm(d, training=False), options={"training": True},
              send=("output", "gradients.input")),
    )
)  # fmt: skip
OTHERS: tuple[Scenario, ...] = (
    named("batch_norm2d layout", "batch_norm2d", square(), options={"layout": "channels_last"},
          send=("output", "running_stats.mean")),
    named("batch_norm1d of (N, C) running variance", "batch_norm1d",
          {"input": normal(5, 4), **stats()}, options={"running_var_estimator": "biased"}),
    named("sync_batch_norm running variance", "sync_batch_norm",
          {"inputs": [normal(2, 4, 3), normal(3, 4, 3, seed=1)], **stats(),
           "grad_outputs": [normal(2, 4, 3, seed=2), normal(3, 4, 3, seed=3)]},
          options={"running_var_estimator": "biased"}),
    named("sync_batch_norm momentum weights", "sync_batch_norm",
          {"inputs": [normal(2, 4), normal(1, 4, seed=1)], **stats()},
          options={"momentum_weights": "running"}),
    *(named(f"instance_norm {d}d eps {eps}", "instance_norm",
            norm(d, running=False, eps=other), options={"eps": eps})
      for d in DIMS for eps, other in ((1e-3, 1e-5), (1e-5, 1e-3))),
    *(named(f"group_norm {d}d num_groups {groups}", "group_norm",
            norm(d, running=False, num_groups=2), options={"num_groups": groups})
      for d in DIMS for groups in (1, 4)),
    named("group_norm num_groups 32", "group_norm",
          {"input": normal(2, 64, 2), "num_groups": 8}, options={"num_groups": 32}),
    named("group_norm eps", "group_norm", norm(2, running=False, num_groups=2),
          options={"eps": 1e-3}),
    named("group_norm layout", "group_norm", {"input": normal(2, 4, 4, 4), "num_groups": 2},
          options={"layout": "channels_last"}),
    named("layer_norm eps of keras", "layer_norm",
          {"input": normal(3, 8) * 0.125, "axis": -1, "grad_output": normal(3, 8, seed=1)},
          options={"eps": 1e-3}),
    named("layer_norm eps of flax", "layer_norm",
          {"input": normal(3, 8) * 0.015625, "axis": -1, "grad_output": normal(3, 8, seed=1)},
          options={"eps": 1e-6}),
    named("layer_norm axis 1", "layer_norm",
          {"input": normal(2, 3, 4), "axis": -1, "grad_output": normal(2, 3, 4, seed=1)},
          options={"axis": 1}, send=("output", "gradients.input")),
    named("layer_norm last axis for two", "layer_norm",
          {"input": normal(2, 3, 4), "normalized_shape": [3, 4]}, options={"axis": -1}),
    named("layer_norm axis 2 of four", "layer_norm",
          {"input": normal(2, 3, 4, 5), "axis": 1}, options={"axis": 2}),
    named("rms_norm weight offset", "rms_norm",
          {"input": normal(3, 8), "axis": -1, "weight": normal(8, seed=1),
           "grad_output": "ones"}, options={"weight_offset": 1}),
    named("rms_norm weight offset left out", "rms_norm",
          {"input": normal(3, 8), "axis": -1, "weight": normal(8, seed=1), "weight_offset": 1,
           "grad_output": "ones"}, options={"weight_offset": 0}),
    named("rms_norm eps 1e-5", "rms_norm",
          {"input": normal(3, 8) * 0.015625, "axis": -1, "grad_output": "ones"},
          options={"eps": 1e-5}),
    named("rms_norm eps 1e-6", "rms_norm",
          {"input": normal(3, 8) * 0.015625, "normalized_shape": 8}, options={"eps": 1e-6}),
    named("rms_norm axis", "rms_norm", {"input": normal(2, 3, 4), "axis": -1},
          options={"axis": 1}),
    *(row for d in DIMS for layer in (f"conv{d}d",) for row in (
        named(f"{layer} weight hwio", layer, convolution(d), options={"weight_layout": "hwio"}),
        named(f"{layer} weight oihw", layer, convolution(d, weight_layout="hwio"),
              options={"weight_layout": "oihw"}),
        named(f"{layer} same_upper", layer, convolution(d), options={"padding": "same_upper"}),
        named(f"{layer} valid", layer, convolution(d, padding=1),
              options={"padding": "valid"}),
        named(f"{layer} same_lower for same_upper", layer,
              convolution(d, padding="same_upper", weight=normal(3, 3, *[2] * d)),
              options={"padding": "same_lower"}),
        named(f"{layer} padding swapped", layer, convolution(d, padding=[[1, 0]]),
              options={"padding": [[0, 1]]}),
    )),
    named("conv2d layout", "conv2d",
          {"input": normal(2, 5, 5, 5), "weight": normal(5, 5, 3, 3, seed=1)},
          options={"layout": "channels_last"}),
)  # fmt: skip
ROWS = (*BATCH, *OTHERS)
