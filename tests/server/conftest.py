"""A stand-in server with short deadlines, shared by the tests of one file."""

from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    log: Path = tmp_path_factory.mktemp("server") / "log"
    with started(log=log, app=APP, settings=SHORT) as serving:
        yield serving
        assert serving.stop()[0] == 0
        assert "Traceback" not in log.read_text()
