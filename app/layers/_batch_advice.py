"""Advice on batch norms, of one batch or of replicas."""

import torch

from app.layers._batch_statistics import BatchNormOptions, all_but_channels
from app.layers._spec import Tensors
from app.schemas.answers import Advice

SMALL_BATCH = 16
"""Values per channel below which statistics vary strongly from batch to batch."""


def advice_on(x: torch.Tensor, tensors: Tensors, options: BatchNormOptions) -> tuple[Advice, ...]:
    """Advice on the batch `(N, C, *spatial)` and the options."""
    count = x.numel() // x.shape[1]
    if not count:
        return ()
    var, mean = torch.var_mean(x, all_but_channels(x), correction=0)
    advice = []
    if options.training and count < SMALL_BATCH:
        advice.append(
            Advice(
                code="small-batch",
                message=f"The statistics are computed from {count} values per channel.",
                suggestion="Use a larger batch, `sync_batch_norm` over replicas, or `group_norm`.",
            )
        )
    if bool((var == 0).any()):
        advice.append(
            Advice(
                code="constant-channel",
                message="A channel is constant: its variance is 0.",
                suggestion="Its output is the bias; its input gradient is scaled by 1/sqrt(eps).",
            )
        )
    if not options.training:
        running_mean, running_var = tensors["running_mean"], tensors["running_var"]
        spread = (running_var.clamp(min=0) + options.eps).sqrt()
        ratio = (var + options.eps) / (running_var.clamp(min=0) + options.eps)
        far = ((mean - running_mean).abs() > spread) | (ratio > 4) | (ratio < 0.25)
        if bool(far.any()):
            advice.append(
                Advice(
                    code="train-eval-mismatch",
                    message="The running statistics are far from those of this batch.",
                    suggestion="Train longer, or check momentum and preprocessing.",
                )
            )
    elif (options.momentum or 0) >= 0.5 and options.momentum_weights == "batch":
        advice.append(
            Advice(
                code="momentum-convention",
                message=f"With momentum {options.momentum}, this batch outweighs all earlier ones.",
                suggestion="0.99 in Keras is 0.01 in torch: send `1 - momentum`, or "
                '`momentum_weights: "running"`.',
            )
        )
    return tuple(advice)
