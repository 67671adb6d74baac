"""No request leaves a trace: answers do not depend on what came before or at the same time, and
torch's own state stays as it was.
"""

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.codecs import json as json_codec
from app.codecs import safetensors
from app.compute import Engine
from app.errors import RequestError
from app.layers import LAYERS, compute_model, tensor_fields
from app.main import create_app
from app.settings import Settings
from tests._serving import serving
from tests._soak import SOAK, rounds
from tests.compute.test_torch_is_safe import random_body
from tests.conftest import LIMITS, wire

# Threads that wait for each other over tiny tensors take minutes on a busy machine.
pytestmark = pytest.mark.usefixtures("one_thread")
BINARY = {"Content-Type": "application/json", "Accept": "application/vnd.safetensors"}
CLIENTS = 8
MAX_SMALL_BYTES = 10_000


def bodies() -> Iterator[tuple[str, bytes]]:
    """A layer's every case, in several dtypes, and one of them large."""
    for name, spec in LAYERS.items():
        for number, case in enumerate(spec.cases):
            dtype = ("float32", "float64", "bfloat16", "float16")[number % 4]
            yield name, json.dumps({"dtype": dtype, **case.body}).encode()
        base = dict((spec.own_cases or spec.cases)[0].body)
        yield name, json.dumps(repeated(base)).encode()


def repeated(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a batch so large that it leaves the event loop."""
    return {k: v * 400 if k in ("input", "indices") else v for k, v in body.items()}


BODIES = list(bodies())


def answer(engine: Engine, layer: str, body: bytes) -> bytes:
    """The answer's file: its tensors' very bits."""
    spec = LAYERS[layer]
    fields = json_codec.decode(body, tensor_fields(spec), max_rank=8, max_list=64)
    call: Any = compute_model(spec).model_validate(fields)
    return b"".join(safetensors.encode(engine.run(spec, call, engine.plan(spec, call)[0])))


def torch_state() -> dict[str, object]:
    """What a layer could change for those after it, on this thread or in the process."""
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random numbers": torch.get_rng_state().numpy().tobytes(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns always": torch.is_warn_always_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.flags,
        "denormals": float(tiny * 1),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "numpy": (np.geterr(), np.random.get_state()[1].tobytes()),  # type: ignore[index]
        "python": random.getstate(),
    }


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def every_pair(numbers: Sequence[int]) -> list[int]:
    """An order in which each follows each, itself too: de Bruijn's of pairs."""
    order = [
        number
        for place, one in enumerate(numbers)
        for number in (one, *(n for other in numbers[place + 1 :] for n in (one, other)))
    ]
    return [*order, numbers[0]]


def test_every_pair_of_layers_in_both_orders(engine: Engine) -> None:
    small = {layer: n for n, (layer, body) in enumerate(BODIES) if len(body) < MAX_SMALL_BYTES}
    assert small.keys() == LAYERS.keys()
    alone = [answer(Engine("cpu", LIMITS), *body) for body in BODIES]
    order = every_pair(list(range(len(BODIES)) if SOAK else small.values()))
    assert len(set(pairwise(order))) == len(set(order)) ** 2
    for before, number in pairwise(order):
        layer = BODIES[number][0]
        assert answer(engine, *BODIES[number]) == alone[number], f"{layer} {BODIES[before][0]}"


def test_torch_stays_as_it_was(engine: Engine) -> None:
    """After each answer and after each refusal."""
    before, refused = torch_state(), 0
    for layer, body in BODIES:
        answer(engine, layer, body)
        assert changes(before, torch_state()) == [], layer
    rng, specs = random.Random(5), list(LAYERS.values())
    for _ in range(rounds(300, 10_000)):
        spec = rng.choice(specs)
        random_one = {name: wire(value) for name, value in random_body(rng, spec).items()}
        text = b"".join(json_codec.encode(random_one))
        before = torch_state()
        try:
            answer(engine, spec.name, text)
        except (RequestError, ValidationError):
            refused += 1
        assert changes(before, torch_state()) == [], spec.name
    assert refused


@pytest.mark.anyio
async def test_at_once_as_one_by_one_in_process() -> None:
    """And the event loop's thread keeps its state."""
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def post(number: int) -> bytes:
            layer, body = BODIES[number]
            reply = await http.post(f"/v1/layers/{layer}", content=body, headers=BINARY)
            assert reply.status_code == 200, reply.text
            return reply.content

        serial = [await post(number) for number in range(len(BODIES))]
        before = torch_state()
        for round_ in range(rounds(1, 20)):
            order = list(range(len(BODIES)))
            random.Random(round_).shuffle(order)
            for start in range(0, len(order), CLIENTS):
                numbers = order[start : start + CLIENTS]
                found = await asyncio.gather(*map(post, numbers))
                assert [serial[number] for number in numbers] == found
        assert changes(before, torch_state()) == []


@pytest.mark.slow
def test_at_once_as_one_by_one_over_a_real_server() -> None:
    with serving() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:

        def post(number: int) -> bytes:
            layer, body = BODIES[number]
            reply = http.post(f"/v1/layers/{layer}", content=body, headers=BINARY)
            assert reply.status_code == 200, reply.text
            return reply.content

        numbers = list(range(len(BODIES)))
        serial = list(map(post, numbers))
        order = numbers * rounds(2, 40)
        random.Random(0).shuffle(order)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for number, found in zip(order, pool.map(post, order), strict=True):
                assert found == serial[number], BODIES[number][0]
        assert list(map(post, numbers)) == serial
