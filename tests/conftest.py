"""What the tests share: an engine, an app in process, a call by name."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import torch

from app.codecs import json as json_codec
from app.codecs import nested
from app.compute import Engine
from app.compute.runtime import prepare_process
from app.layers import LAYERS, LayerSpec, compute_model, tensor_fields
from app.main import create_app
from app.settings import Settings
from tests._soak import HANGS_S, SOAK

hypothesis.settings.register_profile(  # a busy machine draws slowly
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
Post = Callable[[str, object], Any]
LIMITS = Settings().limits


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The soak has hours."""
    if SOAK:
        for item in items:
            item.add_marker(pytest.mark.timeout(HANGS_S))


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine("cpu", LIMITS)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes with the calling thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prepared() -> None:
    """The process as `lamina serve` has it."""
    prepare_process()


@pytest.fixture
async def client(prepared: None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Settings(cors_origins=("https://a.example",))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def compute(engine: Engine, spec: LayerSpec | str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer's payloads as torch tensors; the body may hold tensors."""
    spec = LAYERS[spec] if isinstance(spec, str) else spec
    call = call_of(spec, body)
    answer: dict[str, Any] = unwire(nested(engine.run(spec, call, engine.plan(spec, call)[0])))
    return answer


def call_of(spec: LayerSpec, body: dict[str, Any]) -> Any:
    """The validated request that the body is, by way of JSON."""
    text = b"".join(json_codec.encode({k: wire(v) for k, v in body.items()}))
    fields = json_codec.decode(text, tensor_fields(spec), max_rank=8, max_list=64)
    return compute_model(spec).model_validate(fields)


def wire(value: object) -> object:
    """A torch tensor in the form that JSON takes."""
    if isinstance(value, list) and any(isinstance(item, torch.Tensor) for item in value):
        return [wire(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    names = {float("inf"): "Infinity", float("-inf"): "-Infinity"}

    def name(number: float) -> object:
        return "NaN" if number != number else names.get(number, number)

    return {"shape": list(value.shape), "data": [name(n) for n in value.flatten().tolist()]}


def unwire(value: Any) -> Any:
    """Payloads back to torch tensors."""
    from app.schemas.tensors import TensorPayload

    if isinstance(value, TensorPayload):
        dtype = getattr(torch, value.dtype)
        if 0 in value.shape:
            return torch.empty(value.shape, dtype=dtype)
        return torch.frombuffer(value.data, dtype=dtype).view(value.shape)
    if isinstance(value, list):
        return [unwire(item) for item in value]
    return {k: unwire(v) for k, v in value.items()} if isinstance(value, dict) else value
