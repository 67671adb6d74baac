"""`LAYER/CASE/`: a node test as ONNX keeps them, a model of one node and its inputs and outputs.

Needs the optional package: `pip install "lamina[onnx]"`. ONNX has no gradients; the operators are
those of opset 23. Format: https://github.com/onnx/onnx/blob/main/docs/OnnxBackendTest.md.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from app.operations.vectors import Case
from app.schemas.tensors import TensorPayload
from app.vector_files._set import Files, LeftOut, VectorSet, options_of

OPSET, IR_VERSION = 23, 10
ELEMENTS = {
    "float32": "FLOAT", "float64": "DOUBLE", "float16": "FLOAT16", "bfloat16": "BFLOAT16",
    "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64",
}  # fmt: skip


class _NotInOnnxError(Exception):
    """The case has something that ONNX lacks; the message says what."""


class _Node:
    """A node: its operator, attributes, and named inputs and outputs."""

    def __init__(self, operator: str, case: Case, inputs: tuple[str, ...]) -> None:
        self.operator = operator
        self.attributes: dict[str, Any] = {}
        self.inputs = [(name, _sent(case, name)) for name in inputs]
        self.outputs = [("output", _got(case, "output"))]


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """Several files for each case.

    Raises:
        ModuleNotFoundError: the package onnx is not installed.

    """
    import onnx  # optional, and slow to import

    files, left_out = {}, {}
    for case in vectors.cases:
        try:
            node = _node(vectors.layer, case)
        except _NotInOnnxError as error:
            left_out[case.name] = str(error)
            continue
        folder = f"{vectors.layer}/{case.name}"
        files[f"{folder}/model.onnx"] = _model(onnx, case, node)
        for kind, tensors in (("input", node.inputs), ("output", node.outputs)):
            for index, (name, payload) in enumerate(tensors):
                path = f"{folder}/test_data_set_0/{kind}_{index}.pb"
                files[path] = _tensor(onnx, name, payload)
    return files, left_out


def _model(onnx: ModuleType, case: Case, node: _Node) -> bytes:
    helper = onnx.helper
    made = helper.make_node(
        node.operator,
        [name for name, _ in node.inputs],
        [name for name, _ in node.outputs],
        **node.attributes,
    )
    described = [
        [
            helper.make_tensor_value_info(
                name, getattr(onnx.TensorProto, ELEMENTS[payload.dtype]), payload.shape
            )
            for name, payload in tensors
        ]
        for tensors in (node.inputs, node.outputs)
    ]
    graph = helper.make_graph([made], case.name, *described, doc_string=case.why)
    model = helper.make_model(
        graph, producer_name="lamina", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR_VERSION
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _tensor(onnx: ModuleType, name: str, payload: TensorPayload) -> bytes:
    tensor = onnx.TensorProto(
        name=name,
        data_type=getattr(onnx.TensorProto, ELEMENTS[payload.dtype]),
        dims=payload.shape,
        raw_data=bytes(payload.data),
    )
    content: bytes = tensor.SerializeToString(deterministic=True)
    return content


def _sent(case: Case, name: str) -> TensorPayload:
    payload = case.request.get(name)
    if not isinstance(payload, TensorPayload):
        raise _NotInOnnxError(f"ONNX's operator needs a {name}")
    return payload


def _got(case: Case, name: str) -> TensorPayload:
    payload: TensorPayload = case.response[name]
    return payload


def _node(layer: str, case: Case) -> _Node:
    """The node that computes the case."""
    options = options_of(case)
    if layer[-2:] in ("1d", "2d", "3d"):
        layer = layer[:-2]
    make = NODES.get(layer)
    if make is None:
        raise _NotInOnnxError(f"ONNX has no operator for {layer}")
    follows_layout = layer not in ("relu", "layer_norm", "rms_norm")
    if follows_layout and options["layout"] == "channels_last" and _rank(case) > 2:
        raise _NotInOnnxError("ONNX has channels first alone")
    if not options["batched"]:
        raise _NotInOnnxError("ONNX has no input without a batch axis")
    used: Any = case.response["options"]
    node: _Node = make(case, used)
    return node


def _rank(case: Case) -> int:
    return len(_sent(case, "input").shape)


def _windows(node: _Node, used: Mapping[str, Any]) -> None:
    pads = used["padding"]
    node.attributes |= {
        "strides": list(used["stride"]),
        "pads": [before for before, _ in pads] + [after for _, after in pads],
    }
    if "kernel_size" in used:
        node.attributes["kernel_shape"] = list(used["kernel_size"])
    if "dilation" in used:
        node.attributes["dilations"] = list(used["dilation"])
    if "ceil_mode" in used:
        node.attributes["ceil_mode"] = int(used["ceil_mode"])
        if used["ceil_mode"] and used["ceil_rule"] == "keep":
            raise _NotInOnnxError("ONNX drops windows that start behind the input")


def _max_pool(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("MaxPool", case, ("input",))
    _windows(node, used)
    if _sent(case, "input").dtype in ("int32", "int64"):
        raise _NotInOnnxError("ONNX's MaxPool takes int8 and uint8 alone, of integers")
    if used["nan"] == "ignore":
        raise _NotInOnnxError("ONNX does not ignore NaN")
    if used["return_indices"]:
        if used["index_base"] != "onnx":
            raise _NotInOnnxError("ONNX's indices count the whole tensor")
        node.attributes["storage_order"] = int(used["storage_order"] == "column")
        node.outputs.append(("indices", _got(case, "indices")))
    return node


def _avg_pool(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("AveragePool", case, ("input",))
    _windows(node, used)
    if used["divisor_override"] is not None or used["overhang_divisor"] == "kernel":
        raise _NotInOnnxError("ONNX divides by the elements that count, and never beyond padding")
    node.attributes["count_include_pad"] = int(used["count_include_pad"])
    return node


def _lp_pool(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("LpPool", case, ("input",))
    _windows(node, used)
    p: float = used["norm_type"]
    if p != int(p):
        raise _NotInOnnxError("ONNX's p is an integer")
    if not used["lp_abs"] or used["lp_partial"] == "scaled":
        raise _NotInOnnxError("ONNX takes absolute values, and sums partial windows as they are")
    node.attributes["p"] = int(p)
    return node


def _global_pool(operator: str) -> Any:
    def make(case: Case, used: Mapping[str, Any]) -> _Node:
        if not used["keepdims"]:
            raise _NotInOnnxError("ONNX keeps the spatial axes")
        return _Node(operator, case, ("input",))

    return make


def _unpool(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("MaxUnpool", case, ("input", "indices"))
    _windows(node, used)
    if used["index_base"] != "onnx" or used["storage_order"] != "row":
        raise _NotInOnnxError("ONNX's indices count the whole tensor, in row-major order")
    spatial = _sent(case, "input").shape[2:]
    default = tuple(
        (n - 1) * stride - sum(pads) + kernel
        for n, kernel, stride, pads in zip(
            spatial, used["kernel_size"], used["stride"], used["padding"], strict=True
        )
    )
    if tuple(used["output_size"]) != default:
        raise _NotInOnnxError("written without output_shape, which evaluators read in two ways")
    return node


def _batch_norm(case: Case, used: Mapping[str, Any]) -> _Node:
    names = ("input", "weight", "bias", "running_mean", "running_var")
    node = _Node("BatchNormalization", case, names)
    node.attributes["epsilon"] = float(used["eps"])
    if used["training"]:
        momentum = used["momentum"]
        if momentum is None or used["running_var_estimator"] == "unbiased":
            raise _NotInOnnxError("ONNX has a momentum, and keeps the biased variance")
        if used["momentum_weights"] == "batch":
            momentum = 1 - momentum
        node.attributes |= {"training_mode": 1, "momentum": momentum}
        node.outputs += [
            (f"updated_{name}", _got(case, f"running_stats.{name}")) for name in ("mean", "var")
        ]
    return node


def _instance_norm(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("InstanceNormalization", case, ("input", "weight", "bias"))
    node.attributes["epsilon"] = float(used["eps"])
    return node


def _group_norm(case: Case, used: Mapping[str, Any]) -> _Node:
    node = _Node("GroupNormalization", case, ("input", "weight", "bias"))
    node.attributes |= {"epsilon": float(used["eps"]), "num_groups": used["num_groups"]}
    if _rank(case) < 3:
        raise _NotInOnnxError("ONNX's group norm needs a spatial axis")
    return node


def _trailing(operator: str) -> Any:
    def make(case: Case, used: Mapping[str, Any]) -> _Node:
        optional = ("bias",) if "bias" in case.request else ()
        node = _Node(operator, case, ("input", "weight", *optional))
        node.attributes["axis"] = -len(used["normalized_shape"])
        node.attributes["epsilon"] = float(used["eps"])
        if used.get("weight_offset"):
            raise _NotInOnnxError("ONNX reads the weight as it is")
        return node

    return make


def _conv(case: Case, used: Mapping[str, Any]) -> _Node:
    optional = ("bias",) if "bias" in case.request else ()
    node = _Node("Conv", case, ("input", "weight", *optional))
    _windows(node, used)
    if used.get("weight_layout") == "hwio":
        raise _NotInOnnxError("ONNX keeps weights as [out, in, *kernel]")
    node.attributes |= {"group": used["groups"]}
    node.attributes["kernel_shape"] = list(_sent(case, "weight").shape[2:])
    return node


def _relu(case: Case, _: Mapping[str, Any]) -> _Node:
    return _Node("Relu", case, ("input",))


NODES: Mapping[str, Any] = {
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "lp_pool": _lp_pool,
    "global_max_pool": _global_pool("GlobalMaxPool"),
    "global_avg_pool": _global_pool("GlobalAveragePool"),
    "max_unpool": _unpool,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _trailing("LayerNormalization"),
    "rms_norm": _trailing("RMSNormalization"),
    "conv": _conv,
    "relu": _relu,
}
