"""What a check costs: estimates, the limit, steps, and how long it searches."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from app.api.problems import refusal
from app.compute import Engine
from app.layers import LAYERS
from app.operations import LAYER_OPERATIONS, Context
from app.scheduling import finished
from app.settings import Settings
from tests.conftest import LIMITS
from tests.operations._checking import FLOOR, POOL


def task_of(engine: Engine, layer: str, body: Any) -> Any:
    from app.codecs import json as json_codec

    operation = next(one for one in LAYER_OPERATIONS if one.name == "check")
    reader = operation.reader(Context(engine, LAYERS, refusal), LAYERS[layer])
    text = json.dumps(body).encode()
    return reader.read(json_codec.decode(text, reader.tensors, max_rank=8, max_list=64))


def unexplained(size: int) -> dict[str, Any]:
    x = np.random.default_rng(1).normal(size=(1, 1, size, size)).round(3).tolist()
    shape = (1, 1, size - 2, size - 2)
    noise = np.random.default_rng(2).normal(size=shape).tolist()
    request = {"input": x, "kernel_size": 3, "stride": 1}
    return {"request": request, "expected": {"output": noise}}


def test_the_estimate_is_an_upper_bound_that_the_limit_cuts(engine: Engine) -> None:
    limit = LIMITS.results.max_cost_ms
    small, large = task_of(engine, "avg_pool2d", unexplained(8)), None
    assert 1 < small.estimate.ms < limit, "never on the event loop"
    large = task_of(engine, "avg_pool2d", unexplained(300))
    assert large.estimate.ms <= limit


def test_the_search_ends_at_the_cost_limit() -> None:
    whole = Engine("cpu", LIMITS)
    complete = finished(task_of(whole, "avg_pool2d", unexplained(12)).work())["searched"]
    assert complete["complete"]
    limits = Settings(max_cost_ms=2).limits
    engine = Engine("cpu", limits)
    answer = finished(task_of(engine, "avg_pool2d", unexplained(12)).work())
    assert answer["searched"]["complete"] is False
    assert 0 < answer["searched"]["hypotheses"] < complete["hypotheses"]
    assert answer["match"] is False
    assert answer["diagnosis"] == []


def test_a_search_can_be_left_between_its_steps(engine: Engine) -> None:
    steps = task_of(engine, "avg_pool2d", unexplained(12)).work()
    assert isinstance(steps, Iterator)
    count = sum(1 for _ in steps)
    assert count > 10
    steps = task_of(engine, "avg_pool2d", unexplained(12)).work()
    next(steps)
    steps.close()


def test_a_match_takes_no_search(engine: Engine) -> None:
    task = task_of(engine, "max_pool2d", {"request": POOL, "expected": {"output": FLOOR}})
    assert sum(1 for _ in task.work()) <= 2


def test_plans_of_hypotheses_are_not_kept(engine: Engine) -> None:
    before = len(engine._plans)
    finished(task_of(engine, "avg_pool2d", unexplained(11)).work())
    assert len(engine._plans) <= before + 1


def test_worst_numbers_are_spelled_as_the_dtype_has_them(engine: Engine) -> None:
    body = {"request": {"input": [0.1]}, "expected": {"output": [0.3]}}
    answer = finished(task_of(engine, "relu", body).work())
    first = answer["tensors"][0]["first_mismatch"]
    assert (first["expected"], first["actual"]) == (0.3, 0.1)
    assert math.isclose(answer["tensors"][0]["max_abs_error"], 0.2, rel_tol=1e-6)
