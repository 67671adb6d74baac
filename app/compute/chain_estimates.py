"""Upper estimates of what a chain costs, and the limits it keeps to."""

from collections.abc import Sequence

from app.compute.chain_link import Link
from app.compute.estimates import Estimate, elements_as_if, working_bytes, working_itemsize
from app.errors import CostLimit, OutputTooLarge
from app.limits import ResultLimits
from app.schemas.tensors import DTYPES

LAYER_MS, LAYER_BYTES = 0.1, 4096
"""Overhead per layer in addition to its numbers and their computation."""


def estimated_chain(links: Sequence[Link], *, differentiates: bool) -> Estimate:
    """Estimate the cost of a chain: the sum of its layers' times, and its memory at the peak.

    For gradients, each layer keeps its inputs, results, and working memory until its turn comes
    again; what its gradients take in addition is held for one layer at a time. Without gradients,
    all that is held of the other layers is their part of the answer.
    """
    ms, numbers, held, largest = 0.0, 0, 0, 0
    for index, link in enumerate(links):
        itemsize = working_itemsize(link.call)
        image = elements_as_if(link.plan.inputs["input"])
        output = elements_as_if(link.plan.outputs["output"])
        answered = link.estimate.numbers - (differentiates and bool(index)) * image
        if not (link.is_kept or index == len(links) - 1):
            answered -= output
        ms += link.estimate.ms + LAYER_MS * bool(index)
        numbers += answered
        rounded = image * DTYPES[link.call.dtype].itemsize if index else 0
        if differentiates:
            alone = itemsize * (image + output + link.plan.gradient_workspace)
            held += link.estimate.bytes + rounded - alone
        else:
            alone = link.estimate.bytes + rounded
            held += answered * itemsize
        largest = max(largest, alone)
    return Estimate(ms, held + largest + LAYER_BYTES * len(links), numbers)


def check_limits(
    links: Sequence[Link], estimate: Estimate, limits: ResultLimits, *, differentiates: bool
) -> None:
    """Check a chain's results and working memory, and its time.

    Raises:
        OutputTooLarge, CostLimit: the chain is over a limit.

    """
    working = [working_bytes(link.plan, link.call) for link in links]
    needed = sum(working) if differentiates else max(working)
    if needed > limits.max_output_bytes:
        detail = (
            f"the chain's results and working memory need {needed} bytes; the limit is "
            f"{limits.max_output_bytes}. Use fewer samples or fewer layers"
        )
        raise OutputTooLarge(detail)
    if estimate.ms > limits.max_cost_ms:
        index = max(range(len(links)), key=lambda number: links[number].estimate.ms)
        most = links[index]
        detail = (
            f"the chain would take about {estimate.ms:.0f} ms, {most.estimate.ms:.0f} ms of it in "
            f"layers/{index}, {most.spec.name}; the limit is {limits.max_cost_ms} ms. Use fewer "
            "samples or fewer layers"
        )
        raise CostLimit(detail)
