"""`LAYER.https.any.js`: an array of cases as web-platform-tests has them for WebNN.

Format: https://github.com/web-platform-tests/wpt/tree/master/webnn/conformance_tests. WebNN has no
gradients and no training: the files test outputs alone.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from app.operations.vectors import Case
from app.schemas.tensors import TensorPayload
from app.vector_files._set import Files, LeftOut, VectorSet, numbers, options_of

DATA_TYPES = ("float32", "float16", "int8", "uint8", "int32", "int64")
HEAD = """// META: title=golden vectors of {layer}
// META: global=window
// META: variant=?cpu
// META: variant=?gpu
// META: variant=?npu
// META: script=../resources/utils.js
// META: timeout=long

'use strict';

const tests = """
MIDDLE = """;

// The largest error of each test's output.
const tolerances = """
TAIL = """;

const toleranceOf =
    new Map(tests.map((test, index) => [test.graph, tolerances[index]]));

webnn_conformance_test(
    tests, buildAndExecuteGraph,
    graph => ({metricType: 'ATOL', value: toleranceOf.get(graph)}));
"""


class _NotInWebNNError(Exception):
    """The case has something that WebNN lacks; the message says what."""


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One file, unless WebNN has no such operator."""
    tests, tolerances, left_out = [], [], {}
    for case in vectors.cases:
        try:
            tests.append(_test(vectors.layer, case))
            tolerances.append(_tolerance(case))
        except _NotInWebNNError as error:
            left_out[case.name] = str(error)
    if not tests:
        return {}, left_out
    head = HEAD.format(layer=vectors.layer)
    text = head + _javascript(tests) + MIDDLE + _javascript(tolerances) + TAIL
    return {f"{vectors.layer}.https.any.js": text.encode()}, left_out


def _test(layer: str, case: Case) -> dict[str, Any]:
    """One case: a graph of one operator."""
    operator, arguments, options = _operator(layer, case)
    output: Any = case.response["output"]
    inputs = {name: _operand(payload, constant=name != "input") for name, payload in arguments}
    named = [{name: name} for name, _ in arguments if name not in options.values()]
    return {
        "name": f"{operator} {case.name}: {case.why}",
        "graph": {
            "inputs": inputs,
            "operators": [
                {
                    "name": operator,
                    "arguments": [*named, {"options": options}] if options else named,
                    "outputs": "output",
                }
            ],
            "expectedOutputs": {"output": _operand(output)},
        },
    }


def _tolerance(case: Case) -> float:
    """The largest error that is right anywhere in the output."""
    output: Any = case.response["output"]
    largest = max((abs(n) for n in numbers(output) if math.isfinite(n)), default=0.0)
    tolerance = case.tolerance["output"]
    return tolerance.atol + tolerance.rtol * largest


def _operand(payload: TensorPayload, *, constant: bool = False) -> dict[str, Any]:
    if payload.dtype not in DATA_TYPES:
        raise _NotInWebNNError(f"WebNN has no {payload.dtype}")
    if 0 in payload.shape:
        raise _NotInWebNNError("WebNN has no empty tensors")
    data = numbers(payload)
    if any(math.isnan(number) for number in data):
        raise _NotInWebNNError("WebNN does not say what becomes of NaN")
    descriptor = {"shape": payload.shape, "dataType": payload.dtype}
    return {"data": data, "descriptor": descriptor, **({"constant": True} if constant else {})}


Operands = list[tuple[str, TensorPayload]]


def _operator(layer: str, case: Case) -> tuple[str, Operands, dict[str, Any]]:
    """WebNN's operator, its operands in order, and its options."""
    options, request = options_of(case), case.request
    sent: Operands = [("input", request["input"])] if "input" in request else []
    if not options["batched"]:
        raise _NotInWebNNError("WebNN has no input without a batch axis")
    nhwc = "nhwc" if options["layout"] == "channels_last" else "nchw"
    if layer in ("max_pool2d", "avg_pool2d", "lp_pool2d"):
        return _pool(layer), sent, {"layout": nhwc, **_windows(layer, case, options)}
    if layer in ("global_max_pool", "global_avg_pool"):
        if len(sent[0][1].shape) != 4 or not options["keepdims"]:
            raise _NotInWebNNError("WebNN pools two spatial axes, and keeps them")
        return _pool(layer), sent, {"layout": nhwc}
    if layer == "relu":
        return "relu", sent, {}
    if layer == "conv2d":
        return _conv(case, options, sent, nhwc)
    return _norm(layer, case, options, sent, nhwc)


def _pool(layer: str) -> str:
    kind = "max" if "max" in layer else "l2" if layer.startswith("lp") else "average"
    return f"{kind}Pool2d"


def _windows(layer: str, case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    used: Any = case.response["options"]
    pads = [side for pair in used["padding"] for side in pair]
    output = _output_sizes(case, options)
    if options["ceil_rule"] == "keep":
        raise _NotInWebNNError("WebNN has no windows that start behind the input")
    if layer == "avg_pool2d":
        if used["divisor_override"] is not None:
            raise _NotInWebNNError("WebNN's averages have no divisor of their own")
        if used["overhang_divisor"] == "kernel":
            raise _NotInWebNNError("WebNN's averages never count what is beyond the padding")
        if used["count_include_pad"] and any(pads):
            raise _NotInWebNNError("WebNN's averages leave padding out")
    if layer == "lp_pool2d" and (used["norm_type"] != 2 or used["lp_partial"] == "scaled"):
        raise _NotInWebNNError("WebNN has p = 2 alone, and sums partial windows as they are")
    return {
        "windowDimensions": used["kernel_size"],
        "strides": used["stride"],
        "dilations": used["dilation"],
        "padding": pads,
        "outputSizes": output,
    }


def _output_sizes(case: Case, options: Mapping[str, Any]) -> list[int]:
    shape: Any = case.response["output_shape"]
    return list(shape[1:3] if options["layout"] == "channels_last" else shape[2:])


def _conv(
    case: Case, options: Mapping[str, Any], sent: Operands, nhwc: str
) -> tuple[str, Operands, dict[str, Any]]:
    used: Any = case.response["options"]
    named: dict[str, Any] = {
        "padding": [side for pair in used["padding"] for side in pair],
        "strides": used["stride"],
        "dilations": used["dilation"],
        "groups": used["groups"],
        "inputLayout": nhwc,
        "filterLayout": options.get("weight_layout", "oihw"),
    }
    sent = [*sent, ("filter", case.request["weight"])]
    if "bias" in case.request:
        sent, named["bias"] = [*sent, ("bias", case.request["bias"])], "bias"
    return "conv2d", sent, named


def _norm(
    layer: str, case: Case, options: Mapping[str, Any], sent: Operands, nhwc: str
) -> tuple[str, Operands, dict[str, Any]]:
    request, named = case.request, {"epsilon": options.get("eps")}
    if layer.startswith("batch_norm"):
        if options["training"]:
            raise _NotInWebNNError("WebNN's batch norm does not train")
        operator = "batchNormalization"
        sent = [*sent, ("mean", request["running_mean"]), ("variance", request["running_var"])]
        rank = len(sent[0][1].shape)
        named["axis"] = rank - 1 if nhwc == "nhwc" and rank > 2 else 1
    elif layer == "instance_norm":
        if len(sent[0][1].shape) != 4:
            raise _NotInWebNNError("WebNN's instance norm takes images alone")
        operator, named["layout"] = "instanceNormalization", nhwc
    elif layer == "layer_norm":
        operator, rank = "layerNormalization", len(sent[0][1].shape)
        shape: Any = case.response["options"]["normalized_shape"]
        named["axes"] = list(range(rank - len(shape), rank))
    else:
        raise _NotInWebNNError(f"WebNN has no operator for {layer}")
    for ours, theirs in (("weight", "scale"), ("bias", "bias")):
        if ours in request:
            sent, named[theirs] = [*sent, (theirs, request[ours])], theirs
    return operator, sent, named


def _javascript(value: Any) -> str:
    """JSON, except that Infinity has its name in JavaScript."""
    return json.dumps(value, indent=1)
