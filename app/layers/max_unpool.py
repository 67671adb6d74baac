"""Max unpooling: puts each value back where it came from, with zeros elsewhere."""

import math
from typing import Any, Literal

import torch

from app.errors import FieldError, InvalidRequest
from app.layers._accuracy import SELECTION
from app.layers._cases import Case, numbers, with_options
from app.layers._indices import numbered, planes
from app.layers._spec import (
    SPATIAL,
    SPATIAL_NAMES,
    LayerSpec,
    Plan,
    Port,
    Tensors,
    check_not_empty,
    feature_map,
    presets,
)
from app.layers._windows import per_axis
from app.schemas.options import LayerOptions, Pads, Size
from app.schemas.tensors import Shape, Shapes

SCATTER_COPIES = 8
"""Float32 elements of working memory per output element while the 64-bit indices are inverted."""


class MaxUnpoolOptions(LayerOptions):
    """Options of max unpooling, which are those of the pooling to invert."""

    kernel_size: Size
    """Size of the window along each spatial axis."""
    stride: Size | None = None
    """Distance between windows; null: the convention's default, which is the kernel size or 1."""
    padding: Pads = 0
    """Padding of the pooling to invert: numbers, or pairs [before, after]."""
    output_size: Size | None = None
    """Lengths of the output's spatial axes; null: (input - 1) * stride - padding + kernel."""
    index_base: Literal["plane", "onnx", "tf"] = "plane"
    """How indices count: `plane`, the position within the channel's plane; `onnx`, the position in
    the whole tensor in the order (N, C, D, H, W), whatever the layout; `tf`, as TensorFlow does."""
    storage_order: Literal["row", "column"] = "row"
    """Order of the spatial axes in ONNX indices."""
    index_space: Literal["output", "default"] = "output"
    """Whether indices refer to `output_size`, or to the default size, which is then padded with
    zeros at the end (ONNX)."""


PRESETS = presets(
    keras={"index_base": "tf"},
    onnx={"stride": 1, "index_base": "onnx", "index_space": "default"},
    flax={"stride": 1},
)


def plan(shapes: Shapes, options: MaxUnpoolOptions) -> Plan:
    """Output shape, and cost: a few operations per element."""
    shape = shapes["input"]
    check_not_empty(shape)
    if shapes["indices"] != shape:
        detail = (
            f"indices: expected the shape of input, {list(shape)}; got {list(shapes['indices'])}"
        )
        raise InvalidRequest.at("indices", "shape-mismatch", detail)
    if options.storage_order == "column" and options.index_base != "onnx":
        detail = 'storage_order: "column" requires `index_base: "onnx"`'
        raise InvalidRequest.at("storage_order", "conflict", detail)
    dims = len(shape) - 2
    kernel = per_axis("kernel_size", options.kernel_size, dims)
    stride = kernel if options.stride is None else per_axis("stride", options.stride, dims)
    pairs = tuple(
        entry if isinstance(entry, tuple) else (entry, entry)
        for entry in per_axis("padding", options.padding, dims)
    )
    used = options.model_copy(update={"kernel_size": kernel, "stride": stride, "padding": pairs})
    size = _output_size(_default_size(shape, used), stride, options)
    output = (*shape[:2], *size)
    return Plan(
        options=used.model_copy(update={"output_size": size}),
        inputs=shapes,
        outputs={"output": output},
        cost=4 * (math.prod(shape) + math.prod(output)),
        workspace=SCATTER_COPIES * (math.prod(shape) + math.prod(output)),
        axes=(),
    )


def _default_size(shape: Shape, used: MaxUnpoolOptions) -> Shape:
    """Spatial lengths of the pooling's input, assuming that no remainder was cut off."""
    windows: Any = (used.kernel_size, used.stride, used.padding)
    return tuple(
        (n - 1) * stride - before - after + kernel
        for n, kernel, stride, (before, after) in zip(shape[2:], *windows, strict=True)
    )


def _output_size(default: Shape, stride: Shape, options: MaxUnpoolOptions) -> Shape:
    given = options.output_size
    if min(default) < 1 and (given is None or options.index_space == "default"):
        detail = f"padding: too large; the output shape would be {list(default)}"
        raise InvalidRequest.at("padding", "out-of-range", detail)
    if given is None:
        return default
    size = per_axis("output_size", given, len(default))
    for index, (wanted, least, step) in enumerate(zip(size, default, stride, strict=True)):
        # This is torch's rule; ONNX pads the default size at the end, however far.
        low, high = (
            (least, None)
            if options.index_space == "default"
            else (max(1, least - step + 1), least + step - 1)
        )
        if wanted < low or (high is not None and wanted > high):
            bound = f"at least {low}" if high is None else f"{low} to {high}"
            detail = f"output_size: expected {bound} on spatial axis {index}; got {wanted}"
            raise InvalidRequest.at("output_size", "out-of-range", detail)
    return size


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *output_size)`.

    If indices repeat, the last in row-major order wins, and each gets the gradient, as in torch.

    Raises:
        InvalidRequest: an index outside its own plane.

    """
    x, options = tensors["input"], plan.options
    space = plan.outputs["output"][2:]
    if options.index_space == "default":
        space = _default_size(tuple(x.shape), options)
    where = planes(tensors["indices"], space, options.index_base, options.storage_order).flatten(2)
    _check_range(where, tensors["indices"].shape, math.prod(space))
    output = _Scatter.apply(x.flatten(2), where, math.prod(space)).view(*x.shape[:2], *space)  # type: ignore[no-untyped-call]
    fill = [
        side
        for wanted, have in zip(reversed(plan.outputs["output"]), reversed(space), strict=False)
        for side in (0, wanted - have)
    ]
    return {"output": torch.nn.functional.pad(output, fill) if any(fill) else output}


class _Scatter(torch.autograd.Function):
    """`(N, C, values) -> (N, C, positions)`; with torch's own, any duplicate index may win."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, where: torch.Tensor, positions: int
    ) -> torch.Tensor:
        ctx.save_for_backward(where)
        sources = torch.arange(where.shape[2], device=where.device).expand_as(where)
        winner = where.new_full((*where.shape[:2], positions), -1)
        winner.scatter_reduce_(2, where, sources, "amax")
        return torch.where(winner >= 0, values.gather(2, winner.clamp(min=0)), 0.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad.gather(2, ctx.saved_tensors[0]), None, None


def _check_range(where: torch.Tensor, shape: torch.Size, positions: int) -> None:
    outside = (where < 0) | (where >= positions)
    if bool(outside.any()):
        flat = int(outside.flatten().int().argmax())
        index = []
        for length in reversed(shape):
            flat, position = divmod(flat, length)
            index.append(str(position))
        pointer = "indices/" + "/".join(reversed(index))
        detail = (
            f"indices: an index is out of range: each must lie within the {positions} positions of "
            "its own sample and channel. `index_base` defines how positions are counted; -1, which "
            "max pooling returns for a window with only padding, is no position"
        )
        raise InvalidRequest(detail, [FieldError(f"#/{pointer}", "out-of-range", detail)])


def parameter_shapes(shape: Shape, call: object) -> Shapes:
    """The indices have the input's shape."""
    return {"indices": shape}


def _example(dims: int) -> dict[str, object]:
    nested: dict[int, tuple[Any, Any]] = {
        1: ([[[4, 5]]], [[[1, 2]]]),
        2: ([[[[6, 8]]]], [[[[5, 6]]]]),
        3: ([[[[[6, 8]]]]], [[[[[5, 6]]]]]),
    }
    values, indices = nested[dims]
    return {"input": values, "indices": indices, "kernel_size": [1, 2, 2][-dims:]}


def _cases(dims: int) -> tuple[Case, ...]:
    plane = (4,) * dims
    ends: Any = (..., *[slice(1, None, 2)] * dims)
    where = torch.arange(4**dims).view(1, 1, *plane)[ends]
    several = where.expand(2, 2, *where.shape[2:])

    def in_base(index_base: str, storage_order: str = "row") -> dict[str, object]:
        indices = numbered(several, plane, index_base, storage_order).tolist()
        options = {"index_base": index_base, "storage_order": storage_order}
        return {"input": numbers(*several.shape), "indices": indices, **options}

    default = {"index_space": "default", "output_size": 6}
    return with_options(
        {"input": numbers(*where.shape), "indices": where.tolist(), "kernel_size": 2, "stride": 2,
         "grad_output": "ones"},
        {"stride": None, **in_base("plane")},
        {"grad_output": numbers(1, 1, *plane)},
        in_base("tf"),
        in_base("onnx"),
        in_base("onnx", "column"),
        {"output_size": [5], "index_space": "output"},
        {"output_size": None, "padding": [[0, 1]], "kernel_size": [3], "stride": [2] * dims},
        in_base("onnx") | default,
    )  # fmt: skip


SPECS = tuple(
    LayerSpec(
        name=f"max_unpool{dims}d",
        family="max_unpool",
        summary=f"Maxima put back to their positions, over {SPATIAL[dims]}",
        options=MaxUnpoolOptions,
        inputs=(
            feature_map("input", dims, differentiable=True),
            Port(
                "indices", f"(N, C, {SPATIAL_NAMES[dims]})", (dims + 2,), mapped=True, dtype="int64"
            ),
        ),
        outputs=(feature_map("output", dims),),
        plan=plan,
        run=run,
        presets=PRESETS,
        parameters=parameter_shapes,
        accuracy=SELECTION,
        formula="y[indices[i]] = x[i], zeros elsewhere",
        differences=(
            "If indices repeat, which value wins varies from run to run in torch; here it is the "
            "last in row-major order. All of them get the gradient, as in torch.",
            "ONNX indices refer to the default size, which is padded at the end: `index_space`.",
            "Keras and Flax have no such layer; `tf` indices come from max_pool_with_argmax.",
        ),
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
