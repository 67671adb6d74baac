"""Stand-in servers with short deadlines, shared by the tests of one file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests._serving import Serving, started
from tests.server.stand_in import APP

SHORT = {
    "HEADER_TIMEOUT_MS": "800",
    "BODY_IDLE_TIMEOUT_MS": "500",
    "WRITE_TIMEOUT_MS": "800",
    "KEEP_ALIVE_TIMEOUT_MS": "1000",
    "DRAIN_DELAY_MS": "0",
}

LENIENT_S = 4.0
LENIENT = {
    "HEADER_TIMEOUT_MS": "4000",
    "BODY_IDLE_TIMEOUT_MS": "4000",
    "WRITE_TIMEOUT_MS": "4000",
    "KEEP_ALIVE_TIMEOUT_MS": "4000",
    "DRAIN_DELAY_MS": "0",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with checked(tmp_path_factory.mktemp("server") / "log", SHORT) as serving:
        yield serving


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """With deadlines that a client meets also where it has to wait for a processor."""
    with checked(tmp_path_factory.mktemp("lenient") / "log", LENIENT) as serving:
        yield serving


@contextmanager
def checked(log: Path, settings: Mapping[str, str]) -> Iterator[Serving]:
    with started(log=log, app=APP, settings=settings) as serving:
        yield serving
        assert serving.stop()[0] == 0
        assert "Traceback" not in log.read_text()
