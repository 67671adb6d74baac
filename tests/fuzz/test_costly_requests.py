"""Nested requests that ask for as much as they can: the work counted stays within its estimate, and
that within the limit; and a check ends between two hypotheses when nobody waits for it.
"""

import asyncio
import itertools
import json
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.codecs import JSON
from app.codecs import json as json_codec
from app.compute import Engine
from app.errors import DeadlineExceeded, LaminaError
from app.layers import LAYERS, is_chainable
from app.main import create_app
from app.operations import LAYER_OPERATIONS, SERVICE_OPERATIONS, Context, Reader, Task
from app.operations.check._search import Search
from app.scheduling import Deadline, finished
from app.scheduling.deadline import clock
from app.settings import Settings
from tests._soak import SOAK, rounds
from tests._work import counted_ms
from tests.fuzz._endpoints import ENDPOINTS, answered, check_refusal, taken

LAYER = {operation.name: operation for operation in LAYER_OPERATIONS}
SERVICE = {operation.name: operation for operation in SERVICE_OPERATIONS}
pytestmark = pytest.mark.usefixtures("one_thread")
EXTREMES = ("NaN", "Infinity", "-Infinity", 3.4e38, -3.4e38, 1e-45, 0.0, -0.0, 1.0)
RELU = {"layer": "relu"}


def task_of(path: str, body: object, max_cost_ms: int = 10_000) -> Task:
    """The task of a request to a layer's operation, `relu/check`, or to the service's."""
    limits = Settings(max_cost_ms=max_cost_ms).limits
    context = Context(Engine("cpu", limits), LAYERS, lambda error: {})
    layer, _, name = path.partition("/")
    reader: Reader = (
        LAYER[name].reader(context, LAYERS[layer])
        if layer in LAYERS
        else SERVICE[path].reader(context)
    )
    text = json.dumps(body).encode()
    return reader.read(json_codec.decode(text, reader.tensors, max_rank=8, max_list=64))


def tensor(*shape: int) -> dict[str, Any]:
    """Random numbers."""
    return {
        "shape": shape,
        "data": np.random.default_rng(0).standard_normal(shape).ravel().tolist(),
    }


def randomly(results: Any, rng: random.Random) -> Any:
    """The same results with other numbers."""
    if isinstance(results, dict):
        return {name: randomly(value, rng) for name, value in results.items()}
    if isinstance(results, list):
        return [randomly(value, rng) for value in results]
    return rng.randint(0, 9) if isinstance(results, int) else rng.uniform(-9, 9)


def every_result(name: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """A check of everything that a layer answers, with numbers that nothing explains."""
    spec = LAYERS[name]
    request = {**(request or spec.example), spec.gradient: "ones"}
    if "return_indices" in spec.options.model_fields:
        request["return_indices"] = True
    answer = answered(ENDPOINTS[f"layers/{name}/compute"], JSON, json.dumps(request).encode())
    parts = (*(port.name.partition(".")[0] for port in spec.outputs), "gradients")
    results = {part: answer[part] for part in parts if part in answer}
    return {"request": request, "expected": randomly(results, random.Random(name))}


HOSTILE_CHECKS = {
    "max_pool2d": {"input": tensor(1, 2, 6, 6), "kernel_size": 3, "padding": 1},
    "avg_pool2d": {"input": tensor(1, 2, 6, 6), "kernel_size": 3, "padding": 1, "ceil_mode": True},
    "conv2d": {"input": tensor(1, 2, 6, 6), "weight": tensor(2, 2, 3, 3), "padding": 1},
    "batch_norm2d": {"input": tensor(2, 3, 4, 4), "training": True},
    "sync_batch_norm": {"inputs": [tensor(1, 1)] * rounds(12, 64), "training": True},
}


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_explains_random_results(name: str) -> None:
    body = json.dumps(every_result(name)).encode()
    answer = answered(ENDPOINTS[f"layers/{name}/check"], JSON, body)
    assert not answer["match"]
    assert not answer["diagnosis"]


@pytest.mark.parametrize("name", HOSTILE_CHECKS if SOAK else ["conv2d", "sync_batch_norm"])
def test_the_work_of_a_check_is_within_its_estimate(name: str) -> None:
    task = task_of(f"{name}/check", every_result(name, HOSTILE_CHECKS[name]))
    counted = counted_ms(lambda: finished(task.work()))
    assert counted <= task.estimate.ms, "counted from below"


@pytest.mark.parametrize("name", HOSTILE_CHECKS)
def test_the_cost_limit_ends_the_search(name: str) -> None:
    body = every_result(name, HOSTILE_CHECKS[name])
    whole: Any = finished(task_of(f"{name}/check", body).work())
    limit_ms = rounds(5, 25) if name == "sync_batch_norm" else 3
    task = task_of(f"{name}/check", body, limit_ms)
    assert task.estimate.ms == limit_ms
    answer: Any = finished(task.work())
    assert answer["searched"]["complete"] is False
    assert answer["searched"]["hypotheses"] < whole["searched"]["hypotheses"]
    assert not answer["diagnosis"]


def test_one_hypothesis_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tensors there are, so that a check can be left at any time."""
    runs, run = [0], Engine.run

    def counted(*arguments: Any, **options: Any) -> Any:
        runs[0] += 1
        return run(*arguments, **options)

    monkeypatch.setattr(Engine, "run", counted)
    for name in HOSTILE_CHECKS if SOAK else ("max_pool2d", "conv2d"):
        body = every_result(name, HOSTILE_CHECKS[name])
        before = runs[0]
        for _ in task_of(f"{name}/check", body).work():
            assert runs[0] - before <= 1
            before = runs[0]
        assert runs[0] - before <= 1, "the last step"


class Hypotheses:
    """Counts the hypotheses that searches pay for, and does something at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, event: Callable[[], None]) -> None:
        self.count = 0
        spend = Search._spend

        def spent(search: Search, cost_ms: float) -> None:
            self.count += 1
            if self.count == at:
                event()
            spend(search, cost_ms)

        monkeypatch.setattr(Search, "_spend", spent)


@pytest.mark.parametrize("at", [1, 7])
def test_a_deadline_ends_a_check_between_two_hypotheses(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    deadline = Deadline(clock() + 1e6)
    body = every_result("avg_pool2d", HOSTILE_CHECKS["avg_pool2d"])

    def passes() -> None:
        deadline.until_s = clock()

    hypotheses = Hypotheses(monkeypatch, at, passes)
    with pytest.raises(DeadlineExceeded):
        finished(task_of("avg_pool2d/check", body).work(), deadline.check)
    assert hypotheses.count == at


@pytest.mark.anyio
async def test_a_client_that_leaves_ends_a_check_between_two_hypotheses(
    prepared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, left, seen = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def leave() -> None:
        left.set()
        for _ in range(10):
            await asyncio.sleep(0)
        seen.set()

    def leaves() -> None:
        asyncio.run_coroutine_threadsafe(leave(), loop)
        assert seen.wait(120)

    ended = threading.Event()

    def to_its_end(*arguments: Any) -> Any:
        try:
            return finished(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr("app.scheduling.claims.finished", to_its_end)
    hypotheses = Hypotheses(monkeypatch, 7, leaves)
    body = json.dumps(every_result("avg_pool2d", HOSTILE_CHECKS["avg_pool2d"])).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        for message in messages:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nobody is there for {message}")

    app = create_app(Settings())
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    path = "/v1/layers/avg_pool2d/check"
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
             "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "scheme": "http", "headers": headers, "client": ("127.0.0.1", 1),
             "server": ("127.0.0.1", 2)}  # fmt: skip
    try:
        await app(scope, receive, send)
    except AssertionError:
        raise
    except Exception as error:  # what the server drops without an answer
        assert type(error).__name__ in ("Abandoned", "ClientDisconnect"), repr(error)
    assert await asyncio.to_thread(ended.wait, 120), "the thread goes on"
    assert hypotheses.count == 7


CHAINS: dict[str, dict[str, Any]] = {
    "convolutions": {"layer": "conv2d", "weight": tensor(2, 2, 5, 5), "padding": 2},
    "max pools": {"layer": "max_pool2d", "kernel_size": 7, "stride": 1, "padding": 3},
    "batch norms": {"layer": "batch_norm2d", "training": True, "explain": True},
    "shapes up": {"layer": "adaptive_avg_pool2d", "output_size": 9},
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_work_of_the_longest_chain_is_within_its_estimate(name: str) -> None:
    body = {"input": tensor(1, 2, 8, 8), "layers": [CHAINS[name]] * 64, "grad_output": "ones",
            "return_intermediate": True}  # fmt: skip
    task = task_of("sequential", body)
    assert counted_ms(lambda: finished(task.work())) <= task.estimate.ms
    with pytest.raises(LaminaError, match="at most 64"):
        task_of("sequential", {**body, "layers": [CHAINS[name]] * 65})


def test_dear_layers_add_up_to_a_refusal() -> None:
    dear = {"layer": "max_pool2d", "kernel_size": 127, "stride": 1, "padding": 63}
    body = {"input": tensor(1, 1, 128, 128), "layers": [dear] * 64, "grad_output": "ones"}
    with pytest.raises(LaminaError) as found:
        task_of("sequential", body)
    assert found.value.code == "cost-limit"


@pytest.mark.parametrize("name", [name for name, spec in LAYERS.items() if is_chainable(spec)])
def test_chains_of_nothing(name: str) -> None:
    """An empty batch, and empty axes, through each layer: answered or refused."""
    spec = LAYERS[name]
    sent: Any = spec.example["input"]
    shape = np.shape(sent)
    rest = {
        key: value for key, value in spec.example.items() if key not in ("input", spec.gradient)
    }
    for axis in range(len(shape)):
        empty = {
            "shape": [0 if n == axis else length for n, length in enumerate(shape)],
            "data": [],
        }
        for layers in ([{"layer": name, **rest}], [RELU, {"layer": name, **rest}, RELU]):
            for gradient in ({}, {"grad_output": "ones"}):
                body = {"input": empty, "layers": layers, "explain": True, **gradient}
                answered_or_refused("sequential", body)


def test_folds_of_extreme_values() -> None:
    for value, other in itertools.product(EXTREMES, repeat=2):
        for dtype in ("float32", "float64"):
            conv = {"weight": [[[value, other]]], "bias": [other]}
            norm = {"weight": [other], "bias": [value], "running_mean": [other]}
            for var, eps in itertools.product(("NaN", "Infinity", 0, 1e-45, 3.4e38), (0, 1e-5)):
                body = {"conv": conv, "batch_norm": {**norm, "running_var": [var], "eps": eps}}
                answered_or_refused("fold", {**body, "dtype": dtype})


def test_checks_and_chains_of_extreme_values() -> None:
    for value, name in itertools.product(EXTREMES, HOSTILE_CHECKS):
        body = filled(every_result(name), value)
        answered_or_refused(f"layers/{name}/check", body)
    for value in EXTREMES:
        answered_or_refused("sequential", filled(ENDPOINTS["sequential"].example, value))


def filled(node: Any, value: object) -> Any:
    """The request with the value in place of every element of its nested tensors."""
    if isinstance(node, dict):
        return {name: filled(item, value) for name, item in node.items()}
    if isinstance(node, list):
        if node and isinstance(node[0], int | float | str):
            return [value] * len(node)
        return [filled(item, value) for item in node]
    return node


def test_errors_of_a_batch_point_into_their_own_request() -> None:
    wrong: list[Any] = [
        {"layer": "max_pool2d", "input": [[[[1]]]], "kernel_size": 0},
        {"layer": "max_pool2d", "input": [[[[1, 2], [3]]]], "kernel_size": 1},
        {"layer": "relu", "operation": "check", "request": {"input": [1]}, "expected": {}},
        {"layer": "sequential", "input": [1], "layers": [RELU]},
        {"layer": "relu", "input": [1], "a/b~c": 1},
        {"layer": "relu", "input": {"a": {"b": [1]}}},
        {"layer": "relu", "input": [1], "input_shape": [1]},
        {"layer": ["relu"]}, {"layers": [RELU]}, {}, [], None, 1, "relu", [[]],
    ]  # fmt: skip
    good = {"layer": "relu", "input": [1]}
    requests = [request for one in wrong for request in (good, one)]
    body = json.dumps({"requests": requests}).encode()
    responses = answered(ENDPOINTS["batch"], JSON, body)["responses"]
    assert [response["status"] == 200 for response in responses] == [True, False] * len(wrong)
    for request, response in zip(requests, responses, strict=True):
        check_pointers(request, response["body"].get("errors", []))


def check_pointers(request: Any, errors: list[dict[str, str]]) -> None:
    from app.errors import FieldError, InvalidRequest

    found = [FieldError(error["pointer"], error["code"], error["detail"]) for error in errors]
    check_refusal(JSON, json.dumps(request).encode(), InvalidRequest("wrong", found))


def answered_or_refused(path: str, body: object) -> None:
    try:
        taken(ENDPOINTS[path], JSON, json.dumps(body).encode())
    except Exception as error:
        pytest.fail(f"{path}: {json.dumps(body)[:2000]}: {error!r}")
