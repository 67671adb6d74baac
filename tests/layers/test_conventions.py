"""What each convention sets: the table of the docs, held without the frameworks.

`tests/conventions/` compares with the frameworks themselves where they are installed.
"""

from typing import Any

import pytest
import torch

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, shape_model
from app.schemas.options import CONVENTIONS
from tests.conftest import compute

FLOAT32_EPS, FLOAT64_EPS = 2.0**-23, 2.0**-52
IMAGE = torch.arange(2 * 5 * 5 * 3.0).view(2, 5, 5, 3).sin()
WINDOW = {"kernel_size": [2, 2]}
# layer, body, option: torch, keras, onnx, flax
TABLE: tuple[tuple[str, dict[str, Any], str, tuple[Any, Any, Any, Any]], ...] = (
    ("max_pool2d", WINDOW, "stride", ((2, 2), (2, 2), (1, 1), (1, 1))),
    ("avg_pool2d", WINDOW, "stride", ((2, 2), (2, 2), (1, 1), (1, 1))),
    ("lp_pool2d", WINDOW, "stride", ((2, 2), (2, 2), (1, 1), (1, 1))),
    ("max_pool2d", {**WINDOW, "stride": None}, "stride", ((2, 2), (2, 2), (1, 1), (1, 1))),
    ("avg_pool2d", WINDOW, "count_include_pad", (True, False, False, True)),
    ("max_pool2d", WINDOW, "ceil_rule", ("drop",) * 4),
    ("avg_pool2d", WINDOW, "overhang_divisor", ("inside",) * 4),
    ("max_pool2d", WINDOW, "index_base", ("plane", "tf", "onnx", "plane")),
    ("lp_pool2d", WINDOW, "lp_abs", (False, True, True, True)),
    ("lp_pool2d", WINDOW, "lp_partial", ("scaled", "sum", "sum", "sum")),
    ("max_pool2d", WINDOW, "tie", ("first",) * 4),
    ("max_pool2d", WINDOW, "nan", ("propagate",) * 4),
    *(
        (layer, body, "layout",
         ("channels_first", "channels_last", "channels_first", "channels_last"))
        for layer, body in (("max_pool2d", WINDOW), ("batch_norm2d", {"training": True}),
                            ("adaptive_avg_pool2d", {"output_size": 2}), ("global_max_pool", {}))
    ),
    ("global_avg_pool", {}, "keepdims", (True, False, True, False)),
    ("global_max_pool", {}, "keepdims", (True, False, True, False)),
    ("batch_norm2d", {"training": True}, "momentum", (0.1, 0.99, 0.9, 0.99)),
    ("batch_norm2d", {"training": True, "momentum": None}, "momentum", (None,) * 4),
    ("batch_norm2d", {"training": True}, "momentum_weights",
     ("batch", "running", "running", "running")),
    ("batch_norm2d", {"training": True}, "running_var_estimator",
     ("unbiased", "biased", "biased", "biased")),
    ("batch_norm2d", {"training": True}, "eps", (1e-5, 1e-3, 1e-5, 1e-5)),
    ("instance_norm", {}, "eps", (1e-5, 1e-3, 1e-5, 1e-6)),
    ("group_norm", {"num_groups": 1}, "eps", (1e-5, 1e-3, 1e-5, 1e-6)),
    ("layer_norm", {"axis": -1}, "eps", (1e-5, 1e-3, 1e-5, 1e-6)),
    ("rms_norm", {"axis": -1}, "eps", (FLOAT32_EPS, 1e-6, 1e-5, 1e-6)),
    ("rms_norm", {"axis": -1, "dtype": "float64"}, "eps", (FLOAT64_EPS, 1e-6, 1e-5, 1e-6)),
    ("rms_norm", {"axis": -1, "dtype": "float16"}, "eps", (FLOAT32_EPS, 1e-6, 1e-5, 1e-6)),
    ("conv2d", {"weight": torch.ones(1, 5, 3, 3), "weight_layout": "oihw",
                "layout": "channels_first"}, "padding",
     (((0, 0),) * 2, ((0, 0),) * 2, ((0, 0),) * 2, ((1, 1),) * 2)),
    ("conv2d", {"input": torch.ones(1, 2, 2, 2), "weight": torch.ones(2, 2, 2, 2)},
     "weight_layout", ("oihw", "hwio", "oihw", "hwio")),
    ("rms_norm", {"axis": -1}, "weight_offset", (0,) * 4),
    ("max_pool2d", WINDOW, "empty_window", ("refuse",) * 4),
    ("avg_pool2d", WINDOW, "empty_window", ("refuse",) * 4),
)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "body", "option", "values"), TABLE, ids=[f"{t[0]}-{t[2]}" for t in TABLE]
)
def test_each_convention_sets_its_defaults(
    engine: Engine, layer: str, body: dict[str, Any], option: str, values: tuple[Any, ...]
) -> None:
    for convention, value in zip(CONVENTIONS, values, strict=True):
        answer = compute(engine, layer, {"input": IMAGE, **body, "convention": convention})
        assert answer["options"]["convention"] == convention
        assert answer["options"][option] == value


def test_an_option_that_is_given_wins(engine: Engine) -> None:
    body = {"input": IMAGE, "convention": "keras", "training": True, "momentum": 0.1, "eps": 1e-5,
            "layout": "channels_first"}  # fmt: skip
    options = compute(engine, "batch_norm2d", body)["options"]
    assert (options["momentum"], options["eps"]) == (0.1, 1e-5)
    assert options["layout"] == "channels_first"
    assert options["momentum_weights"] == "running"


def test_unpooling_reads_indices_as_the_convention_counts(engine: Engine) -> None:
    expected = {
        "torch": ("plane", "output", (2, 2)),
        "keras": ("tf", "output", (2, 2)),
        "onnx": ("onnx", "default", (1, 1)),
        "flax": ("plane", "output", (1, 1)),
    }
    for convention, (base, space, stride) in expected.items():
        body = {"input": [[[[1]]]], "indices": [[[[3]]]], "kernel_size": 2}
        options = compute(engine, "max_unpool2d", {**body, "convention": convention})["options"]
        assert (options["index_base"], options["index_space"], options["stride"]) == (
            base, space, stride,
        )  # fmt: skip


def test_padding_above_half_the_kernel_is_torchs_alone_to_refuse(engine: Engine) -> None:
    body = {"input": torch.ones(1, 1, 4), "kernel_size": 3, "padding": 2,
            "layout": "channels_first", "stride": 2}  # fmt: skip
    with pytest.raises(InvalidRequest):
        compute(engine, "avg_pool1d", body)
    for convention in CONVENTIONS[1:]:
        body |= {"convention": convention, "count_include_pad": True}
        output = compute(engine, "avg_pool1d", body)["output"]
        torch.testing.assert_close(output, torch.tensor([[[1, 3, 2]]]) / 3)
    with pytest.raises(InvalidRequest):
        compute(engine, "avg_pool1d", {**body, "padding": 3})


def test_one_value_a_channel_is_torchs_alone_to_refuse(engine: Engine) -> None:
    for layer, body in (("batch_norm1d", {"training": True}), ("instance_norm", {})):
        sent = {"input": [[[7.0]]], "bias": [3.0], "grad_output": "ones", **body}
        with pytest.raises(InvalidRequest):
            compute(engine, layer, sent)
        for convention in CONVENTIONS[1:]:
            answer = compute(engine, layer, {**sent, "convention": convention})
            assert answer["output"].tolist() == [[[3.0]]]
            assert answer["gradients"]["input"].tolist() == [[[0.0]]]
            if "running_stats" in answer:
                share = answer["options"]["momentum"]
                assert answer["running_stats"]["var"].tolist() == pytest.approx([share])


def test_groups_left_out_are_32_where_the_framework_says_so(engine: Engine) -> None:
    for convention in CONVENTIONS:
        body = {"input": torch.ones(1, 64, 3), "convention": convention, "layout": "channels_first"}
        if convention in ("keras", "flax"):
            assert compute(engine, "group_norm", body)["options"]["num_groups"] == 32
        else:
            with pytest.raises(InvalidRequest) as caught:
                compute(engine, "group_norm", body)
            assert caught.value.errors[0].pointer == "#/num_groups"


def test_the_shape_in_every_convention_keeps_the_layout_asked_for(engine: Engine) -> None:
    spec = LAYERS["max_pool2d"]
    call: Any = shape_model(spec).model_validate({"input_shape": (1, 3, 7, 7), "kernel_size": 3})
    assert engine.shape(spec, call)["conventions"] == {
        "torch": (1, 3, 2, 2),
        "keras": (1, 3, 2, 2),
        "onnx": (1, 3, 5, 5),
        "flax": (1, 3, 5, 5),
    }
    call = shape_model(spec).model_validate(
        {"input_shape": (1, 7, 7, 3), "kernel_size": 3, "padding": 2, "convention": "keras"}
    )
    answer = engine.shape(spec, call)
    assert answer["output_shape"] == (1, 3, 3, 3)
    assert answer["conventions"]["torch"] is None, "padding above half is refused there"
    assert answer["conventions"]["flax"] == (1, 9, 9, 3)
