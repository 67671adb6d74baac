"""Scenarios of a part of the results, and of hypotheses that agree on the input."""

import numpy as np

from tests.oracle._bodies import few, image, norm, pool
from tests.oracle._numbers import distinct, normal
from tests.oracle._scenario import Scenario, named
from tests.oracle.rows_pool_faults import uneven

BACK = ("gradients.input",)
VAR = ("running_stats.var",)

SUBSETS: tuple[Scenario, ...] = (
    named("only running_stats.var: biased", "batch_norm2d", norm(2, scale=4),
          options={"running_var_estimator": "biased"}, send=VAR),
    named("only running_stats.mean: weights", "batch_norm2d", norm(2, scale=4),
          options={"momentum_weights": "running"}, send=("running_stats.mean",),
          with_=({"options": {"momentum": 0.9}},)),
    named("only running_stats.var: not updated", "batch_norm1d", norm(1, scale=4),
          fault="running-not-updated", send=VAR),
    named("only running_stats.var: root", "batch_norm3d", norm(3, scale=4),
          fault="running-std", send=VAR),
    named("only gradients: constant statistics", "batch_norm2d", norm(2),
          fault="statistics-held-constant", send=BACK),
    named("only the weight's gradient: inverse deviation", "batch_norm2d", norm(2),
          fault="inverse-std-as-variance", send=("gradients.weight",)),
    named("only gradients: undivided average", "avg_pool2d", pool(2),
          fault="gradient-undivided", sent={"gradients.input": np.array(
              [1.0] * 6 * 42).reshape(2, 3, 7, 6) * (np.arange(7) < 6)[:, None]}),
    named("only gradients: undivided adaptive", "adaptive_avg_pool2d", uneven(2),
          fault="gradient-undivided", send=BACK),
    named("only gradients: ties", "max_pool2d", pool(2, input=few(2)), options={"tie": "all"},
          send=BACK),
    named("only gradients: the loss's mean", "conv1d",
          {"input": normal(1, 2, 6), "weight": normal(2, 2, 3, seed=1), "grad_output": "ones"},
          fault="loss-mean", send=("gradients.weight", "gradients.bias")),
    named("only the bias's gradient: the loss's mean", "layer_norm",
          {"input": normal(3, 5), "axis": -1, "grad_output": "ones"}, fault="loss-mean",
          send=("gradients.bias",)),
    named("only indices: tf", "max_pool3d", pool(3, return_indices=True),
          options={"index_base": "tf"}, send=("indices",)),
    named("only indices: onnx", "max_pool2d", pool(2, return_indices=True),
          options={"index_base": "onnx"}, send=("indices",)),
    named("only indices: in the window", "max_pool2d", pool(2, return_indices=True),
          fault="index-in-window", send=("indices",)),
    named("only output: eps", "batch_norm2d", norm(2), options={"eps": 1e-3}, send=("output",)),
)  # fmt: skip
AGREEING: tuple[Scenario, ...] = (
    named("agree: swapped and same_upper", "avg_pool1d", pool(1, padding=[[1, 0]], stride=1),
          options={"padding": [[0, 1]]}, with_=({"options": {"padding": "same_upper"}},)),
    named("agree: ceil_mode and same_upper", "max_pool1d", pool(1), options={"ceil_mode": True},
          with_=({"options": {"padding": "same_upper"}},)),
    named("agree: weights and momentum", "batch_norm2d", norm(2, scale=4),
          options={"momentum_weights": "running"}, with_=({"options": {"momentum": 0.9}},)),
    named("agree: tf and plane for one channel", "max_pool2d",
          {"input": distinct(2, 1, 4, 4), "kernel_size": 2, "return_indices": True,
           "index_base": "onnx"}, options={"index_base": "plane"}, send=("indices",),
          with_=({"options": {"index_base": "tf"}},)),
    named("agree: last and column-major ties", "max_pool2d",
          {"input": np.array([[0, 2.0], [2, 0]]).reshape(1, 1, 2, 2), "kernel_size": 2,
           "grad_output": "ones"}, fault="tie-last", send=("output", "gradients.input"),
          with_=({"fault": "tie-column-major"},)),
    named("agree: floored ends and a fixed stride", "adaptive_avg_pool1d",
          {"input": normal(1, 2, 5), "output_size": 2}, fault="adaptive-end-floored"),
    named("agree: per sample and all channels of one", "batch_norm2d",
          {"input": normal(3, 1, 4, 4), "training": True}, fault="statistics-per-sample",
          send=("output",), with_=({"fault": "statistics-of-all-channels"},)),
    named("agree: num_groups of C and 32", "group_norm",
          {"input": normal(2, 32, 3), "num_groups": 4}, options={"num_groups": 32}),
    named("agree: a stride of the kernel and of one", "max_pool2d",
          {"input": image(2), "kernel_size": 2, "stride": 3}, options={"stride": 1}),
)  # fmt: skip
ROWS = (*SUBSETS, *AGREEING)
