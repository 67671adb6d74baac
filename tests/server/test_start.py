"""The start: where the service listens, and what it says where it cannot."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests._serving import wait_for
from tests.server.stand_in import APP

COMMAND = [sys.executable, "-m", "app.server.cli", "serve", "--port"]


def started_at(host: str, port: int, workers: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(port), "--host", host, "--workers", workers],
        env=os.environ | {"LAMINA_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("banana.invalid", "banana.invalid:8000"),
        ("http://127.0.0.1", "http://127.0.0.1:8000"),
        ("192.0.2.1", "192.0.2.1:8000"),
        ("2001:db8::1", "[2001:db8::1]:8000"),
        ("a" * 300, f"{'a' * 300}:8000"),
    ],
)
def test_a_place_that_is_not_ours_is_one_line(host: str, place: str, workers: str) -> None:
    done = started_at(host, 8000, workers)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    begins = f"lamina: cannot listen on {place} (LAMINA_HOST, LAMINA_PORT): "
    assert done.stderr.startswith(begins)
    assert len(done.stderr) > len(begins) + 5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line(workers: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = started_at("127.0.0.1", port, workers)
    assert done.returncode == 2
    assert done.stderr == (
        f"lamina: cannot listen on 127.0.0.1:{port} (LAMINA_HOST, LAMINA_PORT): "
        "Address already in use\n"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_free_port_is_told(workers: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", APP, "serve", "--port", "0", "--workers", workers]
    settings = {"LAMINA_DRAIN_DELAY_MS": "0", "LAMINA_HOST": "localhost"}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=os.environ | settings, stderr=output)
    try:
        wait_for(lambda: "Application startup complete" in log.read_text())
        pattern = r"Uvicorn running on http://localhost:(\d+) "
        wait_for(lambda: bool(re.search(pattern, log.read_text())))
        [port] = re.findall(pattern, log.read_text())
        socket.create_connection(("localhost", int(port))).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


def test_torch_learns_how_its_threads_wait_before_it_is_loaded() -> None:
    code = """
import os, sys
from app.server import cli, launch
def look(*_):
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
    sys.exit()
launch.ServingConfig = look
cli.main(["serve"])
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "PASSIVE False\n"
