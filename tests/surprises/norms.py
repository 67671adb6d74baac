"""What norms take, answer and remember: rows 24 to 30, 32, 33 and 35."""

import math
from dataclasses import replace

import torch

from app.compute import Engine
from app.layers import LAYERS, Plan, Tensors
from tests.conftest import compute
from tests.surprises.checks import (
    EPS,
    INF,
    NAN,
    Answers,
    Refuses,
    Surprise,
    check_equal,
    flat,
)


def returns_new_statistics(engine: Engine) -> None:
    """The layer's function leaves every tensor that it is given as it was."""
    spec = LAYERS["batch_norm1d"]
    body = {"input": [[1], [3]], "running_mean": [0], "running_var": [1], "training": True}

    def watched(tensors: Tensors, plan: Plan) -> Tensors:
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        outputs = spec.run(tensors, plan)
        assert all(torch.equal(tensors[name], kept) for name, kept in before.items())
        return outputs

    for more in ({}, {"grad_output": "ones"}):
        answer = compute(engine, replace(spec, run=watched), {**body, **more})
        check_equal(answer["running_stats"]["mean"], [0.2], within=1e-6)
        check_equal(answer["running_stats"]["var"], [1.1], within=1e-6)


FEW = [[1, 3], [5, 7]]
ONE, SQRT5 = 1 / math.sqrt(1 + EPS), math.sqrt(5 + EPS)

ROWS = (
    Surprise(
        24,
        "(C, L) passed to `BatchNorm1d`; (N, C) to `InstanceNorm1d` or `max_pool1d`; (C, H, W) to "
        "`GroupNorm`",
        "Silently misinterpreted as (N, C), (C, L) and (N, C, L).",
        "Axis 0 is the batch unless the request has `batched: false`; a rank that does not fit is "
        "refused.",
        (
            Answers("batch_norm1d", {"input": FEW, "training": True},
                    {"output": [[-2 / math.sqrt(4 + EPS)] * 2, [2 / math.sqrt(4 + EPS)] * 2]},
                    within=1e-6),
            Answers("batch_norm1d", {"input": FEW, "training": True, "batched": False},
                    {"output": [[-ONE, ONE], [-ONE, ONE]]}, within=1e-6),
            Refuses("max_pool1d", {"input": FEW, "kernel_size": 2}, "#/input"),
            Answers("max_pool1d", {"input": FEW, "kernel_size": 2, "batched": False},
                    {"output": [[3], [7]]}),
            Refuses("instance_norm", {"input": FEW}, "#/input"),
            Answers("instance_norm", {"input": FEW, "batched": False},
                    {"output": [[-ONE, ONE], [-ONE, ONE]]}, within=1e-6),
            Answers("group_norm", {"input": [[[1, 3]], [[5, 7]]], "num_groups": 1},
                    {"output": [[[-ONE, ONE]], [[-ONE, ONE]]]}, within=1e-6),
            Answers("group_norm", {"input": [[[1, 3]], [[5, 7]]], "num_groups": 1,
                    "batched": False},
                    {"output": [[[-3 / SQRT5, -1 / SQRT5]], [[1 / SQRT5, 3 / SQRT5]]]},
                    within=1e-6),
        ),
    ),
    Surprise(
        25,
        "`F.batch_norm([[1], [4]], ..., momentum=m)`, m of 2, -1 and NaN",
        "Accepted: the running mean becomes 5, -2.5 and NaN.",
        "Refuses a momentum outside [0, 1].",
        (
            *(Refuses("batch_norm1d", {"input": [[1], [4]], "training": True,
                      "momentum": momentum}, "#/momentum") for momentum in (2, -1, "NaN")),
            Answers("batch_norm1d", {"input": [[1], [4]], "training": True, "momentum": 1},
                    {"running_stats.mean": [2.5], "running_stats.var": [4.5]}, within=1e-6),
            Answers("batch_norm1d", {"input": [[1], [4]], "training": True, "momentum": 0},
                    {"running_stats.mean": [0], "running_stats.var": [1]}, within=1e-6),
        ),
    ),
    Surprise(
        26,
        "`F.batch_norm` in training, one element of x NaN or infinite",
        "The whole channel becomes NaN, and its running statistics are not finite from then on.",
        "The same numbers, in that channel only. The updated statistics are part of the answer, "
        "so the caller still has the old ones.",
        tuple(
            Answers("batch_norm1d", {"input": [[1, bad], [3, 2]], "training": True},
                    {"output": [[-ONE, NAN], [ONE, NAN]], "running_stats.mean": [0.2, mean],
                     "running_stats.var": [1.1, NAN]}, within=1e-6)
            for bad, mean in (("NaN", NAN), ("Infinity", INF))
        ),
    ),
    Surprise(
        27,
        "`F.batch_norm(x, mean, var)` in evaluation, var of -1",
        "Gives NaN.",
        "Refuses a negative running variance, in training too. 0 is accepted, because `eps` keeps "
        "the square root above 0.",
        (
            *(Refuses("batch_norm1d", {"input": [[1], [3]], "training": training,
                      "running_mean": [0], "running_var": [-1]}, "#/running_var")
              for training in (False, True)),
            Answers("batch_norm1d", {"input": [[1]], "training": False, "running_mean": [0],
                    "running_var": [0]}, {"output": [[1 / math.sqrt(EPS)]]}, within=1e-3),
        ),
    ),
    Surprise(
        28,
        "`nn.BatchNorm1d` in training with an empty batch",
        "Leaves the running statistics as they are, but adds 1 to `num_batches_tracked`.",
        "The same, also with the cumulative average; the batch statistics are NaN.",
        tuple(
            Answers("batch_norm1d", {"input": flat((0, 2), []), "training": True,
                    "running_mean": [1, 2], "running_var": [3, 4], "num_batches_tracked": 5,
                    "momentum": momentum},
                    {"output_shape": (0, 2), "running_stats.mean": [1, 2],
                     "running_stats.var": [3, 4], "running_stats.num_batches_tracked": 6,
                     "batch_stats.mean": [NAN, NAN]})
            for momentum in (0.1, None)
        ),
    ),
    Surprise(
        29,
        "`torch.batch_norm([[3]])` in training, which bypasses the check in `F.batch_norm`",
        "The output is 3.05e-05 instead of 0, and the running variance becomes NaN.",
        "Refuses one value per channel in training, as `F.batch_norm` does; under the other "
        "conventions its variance is 0. A batch of one is accepted if it has several positions.",
        (
            Refuses("batch_norm1d", {"input": [[3]], "training": True}, "#/input"),
            Refuses("batch_norm2d", {"input": [[[[3]]]], "training": True}, "#/input"),
            Answers("batch_norm1d", {"input": [[3]], "training": True, "convention": "onnx"},
                    {"output": [[0]], "running_stats.mean": [0.3], "running_stats.var": [0.9]},
                    within=1e-6),
            Answers("batch_norm2d", {"input": [[[[1, 3]]]], "training": True},
                    {"output": [[[[-ONE, ONE]]]]}, within=1e-6),
            Answers("batch_norm1d", {"input": [[3]], "training": False, "running_mean": [1],
                    "running_var": [4]}, {"output": [[2 / math.sqrt(4 + EPS)]]}, within=1e-6),
        ),
    ),
    Surprise(
        30,
        "`F.batch_norm(x, running_mean, running_var, training=True)`, even under `no_grad`",
        "Updates `running_mean` and `running_var` in place.",
        "Is stateless and modifies nothing in place: the answer has the updated statistics as new "
        "tensors.",
        (returns_new_statistics,),
    ),
    Surprise(
        32,
        "`F.batch_norm` of a constant channel in training",
        "The output is 0 up to rounding, but the gradient is scaled by 1 / sqrt(eps) = 316.",
        "The output is 0. The gradient is the same, because it is the true derivative, and "
        "`explain` advises `constant-channel`.",
        (
            *(Answers("batch_norm1d", {"input": [[level]] * 4, "training": True},
                      {"output": [[0]] * 4}, advice="constant-channel") for level in (5, 5000)),
            Answers("batch_norm1d", {"input": [[5]] * 4, "training": True,
                    "grad_output": [[1], [0], [0], [0]]},
                    {"gradients.input": [[share / math.sqrt(EPS)]
                                         for share in (0.75, -0.25, -0.25, -0.25)]}, within=1e-2),
        ),
    ),
    Surprise(
        33,
        "`F.group_norm` or `F.layer_norm` of constant input, `eps` of 0 or -1",
        "Gives NaN; batch norm raises.",
        "Refuses an `eps` that is negative, not finite, or so small that float32 rounds it to 0. "
        "0 itself is accepted: constant input then gives 0 / 0, which is NaN, and `explain` "
        "advises `constant-channel`.",
        (
            *(Refuses(layer, {"input": [[[3, 3]]], **options, "eps": eps}, "#/eps")
              for layer, options in (("group_norm", {"num_groups": 1}),
                                     ("layer_norm", {"normalized_shape": [2]}),
                                     ("instance_norm", {}),
                                     ("rms_norm", {"normalized_shape": [2]}),
                                     ("batch_norm1d", {"training": True}))
              for eps in (-1, 1e-50, "NaN", "Infinity")),
            Refuses("batch_norm1d", {"input": [[[3, 3]]], "training": True, "eps": 0}, "#/eps"),
            *(Answers(layer, {"input": [[[3, 3]]], **options, "eps": 0},
                      {"output": [[[NAN, NAN]]]}, advice="constant-channel")
              for layer, options in (("group_norm", {"num_groups": 1}),
                                     ("layer_norm", {"normalized_shape": [2]}))),
        ),
    ),
    Surprise(
        35,
        "`nn.InstanceNorm1d(num_features, affine=False)` with a wrong `num_features`",
        "Warns, then computes.",
        "Has no `num_features`; a weight or bias of the wrong length is refused.",
        (
            Refuses("instance_norm", {"input": [[[1, 3]]], "num_features": 2}, "#/num_features"),
            Refuses("instance_norm", {"input": [[[1, 3]]], "weight": [1, 1]}, "#/weight"),
            Refuses("instance_norm", {"input": [[[1, 3]]], "bias": [0, 0]}, "#/bias"),
        ),
    ),
)  # fmt: skip
