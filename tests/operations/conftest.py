"""A service for the tests of checks, built once per file: its document takes a while."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.operations._checking import Checking


@pytest.fixture(scope="module")
def check_app() -> Any:
    return create_app(Settings())


@pytest.fixture
async def check_client(prepared: None, check_app: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(check_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


@pytest.fixture
def check(check_client: httpx.AsyncClient) -> Checking:
    return Checking(check_client)
