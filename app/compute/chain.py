"""Chains of layers: planned as a whole, then run layer by layer without payloads in between.

Each layer is run and differentiated as if it came alone. Between two layers, values and gradients
are rounded to the request's dtype and laid out as sent, so that a chain's numbers are, bit for bit,
those of its layers called one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.compute._tensors import TORCH_DTYPES
from app.compute.chain_advice import placement
from app.compute.chain_estimates import check_limits, estimated_chain
from app.compute.chain_link import Link
from app.compute.engine import DEVICE_ERRORS, Answer, Engine, translated
from app.compute.estimates import Estimate
from app.compute.explanation import explained
from app.compute.gradients import input_gradients
from app.compute.load import Loader
from app.compute.pack import laid_out, packed
from app.compute.shapes import output_shapes
from app.errors import InvalidRequest
from app.layers import LayerSpec, Tensors
from app.schemas.calls import ComputeCall
from app.schemas.tensors import TensorPayload

FROM_THE_TOP = frozenset(("grad_output", "dtype", "compute_dtype"))
"""Fields of a layer's request that the chain has in its place."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A planned chain. `estimate` is that of the whole."""

    links: tuple[Link, ...]
    dtype: str
    differentiates: bool
    explains: bool
    estimate: Estimate


def plan_chain(
    engine: Engine,
    layers: Sequence[tuple[LayerSpec, ComputeCall]],
    kept: frozenset[int],
    *,
    explains: bool,
) -> Chain:
    """Check a chain and work out its shapes and cost, without touching a tensor.

    The first call's `input` and the last call's `grad_output` are the chain's. The input of every
    other call is replaced with one of the shape that the layer before it answers.

    Raises:
        InvalidRequest: shapes or options that do not fit, or a chain that exceeds a limit.

    """
    links: list[Link] = []
    for index, (spec, sent) in enumerate(layers):
        call: ComputeCall = sent
        if links:
            nothing = TensorPayload(sent.dtype, links[-1].output_shape, memoryview(b""))
            call = sent.model_copy(update={"input": nothing})
        try:
            plan, estimate = engine.plan(spec, call)
        except InvalidRequest as error:
            raise located(error, index) from None
        shape = output_shapes(spec, call, plan)
        links.append(Link(spec, call, plan, estimate, shape, index in kept))
    last = links[-1].call
    differentiates = getattr(last, links[-1].spec.gradient) is not None
    chain = Chain(
        tuple(links),
        last.dtype,
        differentiates,
        explains,
        estimated_chain(links, differentiates=differentiates),
    )
    check_limits(chain.links, chain.estimate, engine.limits.results, differentiates=differentiates)
    return chain


def run_chain(engine: Engine, chain: Chain) -> Answer:
    """Run the layers, then their gradients from the last to the first.

    Returns the answer's fields by dotted name, in order.

    Raises:
        InvalidRequest: values that a layer cannot accept.
        OutOfMemory, DeviceLost: as `Engine.run`.

    """
    try:
        with torch.set_grad_enabled(chain.differentiates):
            output, steps, entries = _forward(engine, chain)
            whole = {"output": output}
            if chain.differentiates:
                whole["gradients.input"] = _backward(steps, entries, chain.dtype)
            payloads = packed(whole, chain.dtype, ("output",))
    except DEVICE_ERRORS as error:
        raise translated(error) from error
    answer: Answer = {
        "dtype": chain.dtype,
        "device": str(engine.device),
        "output": payloads.pop("output"),
        "output_shape": chain.links[-1].output_shape,
        **payloads,
    }
    for index, entry in enumerate(entries):
        answer |= {f"layers.{index}.{name}": value for name, value in entry.items()}
    if chain.explains:
        answer["placement"] = [advice.model_dump() for advice in placement(chain.links)]
    return answer


@dataclass(frozen=True, slots=True)
class _Step:
    """What a layer's gradients are computed from."""

    link: Link
    loader: Loader
    inputs: Tensors
    output: torch.Tensor


def _forward(
    engine: Engine, chain: Chain
) -> tuple[torch.Tensor, list[_Step], list[dict[str, Any]]]:
    """Run every layer.

    Returns the output, laid out as sent, what gradients are computed from if they were requested,
    and each layer's entry in the answer.
    """
    steps: list[_Step] = []
    entries: list[dict[str, Any]] = []
    image: torch.Tensor | None = None
    for index, link in enumerate(chain.links):
        try:
            image, step, entry = _run_layer(engine, link, image, chain.dtype)
        except InvalidRequest as error:
            raise located(error, index) from None
        entries.append(entry)
        if chain.differentiates:
            steps.append(step)
        del step  # without gradients, this frees the layer's tensors
    assert image is not None
    return image, steps, entries


def _run_layer(
    engine: Engine, link: Link, image: torch.Tensor | None, dtype: str
) -> tuple[torch.Tensor, _Step, dict[str, Any]]:
    """Run one layer: its output, laid out as sent, and its part of the answer."""
    loader = Loader(link.spec, link.call, link.plan, engine.device)
    inputs = loader.inputs(image)
    outputs = link.spec.run(inputs, link.plan)
    found = laid_out(link.spec.outputs, outputs, link.plan, link.call)
    output = _between(found.pop("output"), dtype)
    entry: dict[str, Any] = {
        "layer": link.spec.name,
        "output_shape": link.output_shape,
        **packed({"output": output, **found} if link.is_kept else found, dtype, ("output",)),
        "options": vars(link.plan.options),
    }
    if link.call.explain:
        explanation = explained(link.spec, link.call, link.plan, inputs, outputs)
        entry |= {name: explanation[name] for name in ("axes", "advice")}
    return output, _Step(link, loader, inputs, outputs["output"]), entry


def _backward(steps: list[_Step], entries: Sequence[dict[str, Any]], dtype: str) -> torch.Tensor:
    """Add the gradients of each layer's parameters to its entry, from the last layer to the first.

    Returns the gradient of the chain's input, laid out as sent. A layer's graph is freed after use.
    """
    gradient: torch.Tensor | None = None
    for entry in reversed(entries):
        gradient, own = _differentiate(steps.pop(), gradient, dtype)
        entry |= own
    assert gradient is not None
    return gradient


def _differentiate(
    step: _Step, upstream: torch.Tensor | None, dtype: str
) -> tuple[torch.Tensor, dict[str, TensorPayload]]:
    """The gradients of one layer: of its input, laid out as sent, and those in its entry."""
    link, own = step.link, (step.output,)
    found = input_gradients(step.inputs, own, step.loader.output_gradients(own, upstream))
    found = laid_out(link.spec.inputs, found, link.plan, link.call)
    gradient = _between(found.pop("input"), dtype)
    parameters = {f"gradients.{name}": tensor for name, tensor in found.items()}
    return gradient, packed(parameters, dtype, ())


def _between(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """The tensor as a payload would bring it to the next layer: rounded, and row-major with the
    strides of a new tensor, since some kernels depend on the strides of axes of length 1.
    """
    rounded = tensor.detach().to(TORCH_DTYPES[dtype])
    return rounded.reshape(-1).view(rounded.shape)


def located(error: InvalidRequest, index: int) -> InvalidRequest:
    """A layer's error with pointers into the chain.

    Only the first layer's input is a field; an error in that of another layer points to the layer.
    """
    path = f"layers/{index}"
    moved = error.within(path)
    moved.errors = tuple(
        replace(after, pointer=_pointer(found.pointer, index))
        for found, after in zip(error.errors, moved.errors, strict=True)
    )
    return moved


def _pointer(pointer: str, index: int) -> str:
    field = pointer[2:].partition("/")[0]
    if field in FROM_THE_TOP or (field == "input" and not index):
        return pointer
    path = f"#/layers/{index}"
    return path if field == "input" else f"{path}/{pointer[2:]}"
