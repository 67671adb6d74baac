"""`empty_window`: what stands in a window that holds no element of the input."""

import math
from typing import Any

import pytest
import torch

from app.compute import Engine
from app.errors import EmptyWindow, InvalidRequest
from app.layers import LAYERS, shape_model
from tests.conftest import compute

ROW = torch.tensor([[[5.0, 7.0]]])
DILATED: dict[str, Any] = {"kernel_size": 2, "dilation": 3, "padding": [[2, 2]], "stride": 1}
"""Over two elements: windows of the positions (-2, 1), (-1, 2) and (0, 3)."""
KEPT: dict[str, Any] = {"kernel_size": 2, "stride": 3, "ceil_mode": True, "ceil_rule": "keep"}
"""Over three elements: windows of the positions (0, 1) and (3, 4)."""
LOWEST = {"float32": -math.inf, "float64": -math.inf, "float16": -math.inf, "bfloat16": -math.inf,
          "int8": -128, "uint8": 0, "int32": -(2**31), "int64": -(2**63)}  # fmt: skip


@pytest.mark.parametrize("dtype", LOWEST)
@pytest.mark.parametrize("nan", ["propagate", "ignore"])
def test_a_maximum_of_nothing_is_0_or_the_lowest_value(
    engine: Engine, dtype: str, nan: str
) -> None:
    body = {"input": [[[5, 7]]], **DILATED, "dtype": dtype, "nan": nan, "return_indices": True}
    for word, value in (("zero", 0), ("lowest", LOWEST[dtype])):
        answer = compute(engine, "max_pool1d", {**body, "empty_window": word})
        assert answer["output"].tolist() == [[[7, value, 5]]]
        assert answer["output"].dtype == getattr(torch, dtype)
        assert answer["indices"].tolist() == [[[1, -1, 0]]]
        assert answer["options"]["empty_window"] == word


def test_a_window_behind_the_input_is_empty_too(engine: Engine) -> None:
    body = {"input": [[[-1, -2, -3]]], **KEPT, "return_indices": True, "grad_output": [[[2, 4]]]}
    answer = compute(engine, "max_pool1d", {**body, "empty_window": "zero"})
    assert answer["output"].tolist() == [[[-1, 0]]]
    assert answer["indices"].tolist() == [[[0, -1]]]
    assert answer["gradients"]["input"].tolist() == [[[2, 0, 0]]]


@pytest.mark.parametrize("tie", ["first", "split", "all"])
@pytest.mark.parametrize("word", ["zero", "lowest"])
def test_it_passes_no_gradient(engine: Engine, tie: str, word: str) -> None:
    for gradient in ([[[2, 100, 3]]], [[[2, math.nan, 3]]], [[[2, math.inf, 3]]]):
        body = {"input": ROW, **DILATED, "tie": tie, "empty_window": word}
        answer = compute(engine, "max_pool1d", {**body, "grad_output": torch.tensor(gradient)})
        assert answer["gradients"]["input"].tolist() == [[[3, 2]]]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("nan", ["propagate", "ignore"])
def test_the_lowest_value_in_the_input_is_no_empty_window(
    engine: Engine, value: float, nan: str
) -> None:
    body = {"input": torch.full((1, 1, 2), value), **DILATED, "nan": nan, "return_indices": True}
    answer = compute(engine, "max_pool1d", {**body, "empty_window": "zero"})
    assert answer["indices"].tolist() == [[[1, -1, 0]]]
    kept = value if nan == "propagate" else -math.inf
    expected = torch.tensor([[[kept, 0.0, kept]]])
    torch.testing.assert_close(answer["output"], expected, equal_nan=True)


BASES = [("plane", "row"), ("tf", "row"), ("onnx", "row"), ("onnx", "column")]


@pytest.mark.parametrize(("base", "order"), BASES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_its_index_is_minus_one_in_every_base(
    engine: Engine, base: str, order: str, layout: str
) -> None:
    x = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    last = layout == "channels_last"
    body = {"input": x.movedim(1, -1) if last else x, "kernel_size": [1, 2], "dilation": [1, 3],
            "padding": [[0, 0], [2, 2]], "stride": 1, "return_indices": True,
            "layout": layout}  # fmt: skip
    options = {"index_base": base, "storage_order": order, "empty_window": "lowest"}
    found = compute(engine, "max_pool2d", {**body, **options})["indices"]
    found = found.movedim(-1, 1) if last else found
    assert (found[..., 1] == -1).all()
    n, c, y = torch.arange(2).view(2, 1, 1), torch.arange(3).view(3, 1), torch.arange(2)
    for place, column in ((0, 1), (2, 0)):
        flat = y * 2 + column if order == "row" else y + column * 2
        expected = {"plane": y * 2 + column + 0 * (n + c), "tf": (y * 2 + column) * 3 + c + 0 * n,
                    "onnx": (n * 3 + c) * 4 + flat}[base]  # fmt: skip
        assert torch.equal(found[..., place], expected)


@pytest.mark.parametrize(("base", "order"), BASES)
@pytest.mark.parametrize("channel", [0, 1])
def test_unpooling_refuses_minus_one(engine: Engine, base: str, order: str, channel: int) -> None:
    first = [0, {"plane": 0, "tf": 1, "onnx": 4}[base]]  # of each channel's plane of four
    body = {"input": [[[[5]], [[6]]]], "kernel_size": 2, "index_base": base, "storage_order": order}

    def unpooled(indices: list[int]) -> Any:
        return compute(engine, "max_unpool2d", {**body, "indices": [[[[i]] for i in indices]]})

    assert unpooled(first)["output"].sum() == 11
    first[channel] = -1
    with pytest.raises(InvalidRequest, match="only padding") as caught:
        unpooled(first)
    assert caught.value.errors[0].pointer == f"#/indices/0/{channel}/0/0"


def test_an_average_of_nothing_is_0(engine: Engine) -> None:
    body = {"input": ROW, **DILATED, "count_include_pad": False, "grad_output": [[[2, 100, 3]]]}
    answer = compute(engine, "avg_pool1d", {**body, "empty_window": "zero"})
    assert answer["output"].tolist() == [[[7, 0, 5]]]
    assert answer["gradients"]["input"].tolist() == [[[3, 2]]]
    counted = compute(engine, "avg_pool1d", {**body, "count_include_pad": True})
    assert counted["output"].tolist() == [[[3.5, 0, 2.5]]], "refuses nothing where padding counts"
    overridden = compute(engine, "avg_pool1d", {**body, "divisor_override": 10})
    assert overridden["output"].tolist() == [[[pytest.approx(0.7), 0, 0.5]]]


@pytest.mark.parametrize(
    ("layer", "body", "words"),
    [
        ("max_pool1d", DILATED, '"zero" or "lowest"'),
        ("max_pool1d", {**DILATED, "empty_window": "refuse"}, '"zero" or "lowest"'),
        ("avg_pool1d", {**DILATED, "count_include_pad": False}, '"zero"'),
    ],
)
def test_the_refusal_suggests_the_option(
    engine: Engine, layer: str, body: dict[str, Any], words: str
) -> None:
    with pytest.raises(EmptyWindow) as caught:
        compute(engine, layer, {"input": ROW, **body})
    assert f"`empty_window`: {words}" in str(caught.value)
    assert caught.value.errors[0].pointer == "#/padding"


def test_explanations_tell_which_windows_are_empty(engine: Engine) -> None:
    body = {"input": ROW, **DILATED, "explain": True}
    answer = compute(engine, "max_pool1d", {**body, "empty_window": "zero"})
    windows = answer["explanation"]["windows"]
    assert [window["ties"] for window in windows] == [1, 0, 1]
    assert [window.get("argmax") for window in windows] == [(1,), None, (0,)]
    assert [window["padding_taps"] for window in windows] == [1, 2, 1]
    body |= {"count_include_pad": False, "empty_window": "zero"}
    windows = compute(engine, "avg_pool1d", body)["explanation"]["windows"]
    assert [window.get("divisor") for window in windows] == [1, None, 1]


def test_the_shape_in_every_convention(engine: Engine) -> None:
    spec = LAYERS["max_pool1d"]
    body = {"input_shape": (1, 1, 2), **DILATED}
    call: Any = shape_model(spec).model_validate({**body, "empty_window": "lowest"})
    answer = engine.shape(spec, call)
    assert set(answer["conventions"].values()) == {(1, 1, 3)}
    refused: Any = shape_model(spec).model_validate(body)
    with pytest.raises(EmptyWindow):
        engine.shape(spec, refused)


@pytest.mark.parametrize(
    ("layer", "options"), [("max_pool2d", {}), ("avg_pool2d", {"count_include_pad": False})]
)
def test_the_option_alone_changes_no_result(
    engine: Engine, layer: str, options: dict[str, Any]
) -> None:
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    body = {"input": x, "kernel_size": 3, "stride": 2, "padding": 1, "grad_output": "ones"}
    refusing = compute(engine, layer, body | options)
    answer = compute(engine, layer, body | options | {"empty_window": "zero"})
    assert torch.equal(answer["output"], refusing["output"])
    assert torch.equal(answer["gradients"]["input"], refusing["gradients"]["input"])
