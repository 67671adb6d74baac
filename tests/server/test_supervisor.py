"""Several workers: what happens to the others when one dies, hangs, or is stopped."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.server.supervisor import MAX_CRASHES
from tests._server import Serving, started
from tests._soak import SOAK, rounds
from tests.server._load import Crowd
from tests.server._wire import closing, exchange, get
from tests.server.stand_in import APP

REPLACED_S = 5.0
TWO = ("--workers", "2")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Serving]:
    settings = {"DRAIN_DELAY_MS": "0", "DRAIN_GRACE_MS": "3000"}
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with started(
        *TWO, log=tmp_path / "log", app=APP, environment=environment, settings=settings
    ) as pair:
        wait_for(lambda: len(serving_pids(pair)) == 2)
        yield pair


def wait_for(holds: Callable[[], bool], within_s: float = 15.0) -> float:
    """How long it took."""
    begun = time.perf_counter()
    while not holds():
        assert time.perf_counter() - begun < within_s
        time.sleep(0.05)
    return time.perf_counter() - begun


def serving_pids(server: Serving) -> set[int]:
    """Of the workers that answer new connections; both of two will do so within a few."""
    with ThreadPoolExecutor(8) as pool:
        return set(
            pool.map(lambda _: pid_of(exchange(server, closing("/sleep/30")).data), range(8))
        )


def pid_of(data: bytes) -> int:
    return int(data.rpartition(b" ")[2])


def worker_pids(server: Serving) -> set[int]:
    """As the system sees them; without the helper that multiprocessing starts."""
    children = psutil.Process(server.process.pid).children()
    return {child.pid for child in children if "spawn_main" in " ".join(child.cmdline())}


def connection_to(server: Serving, pid: int) -> socket.socket:
    """A kept connection to one of the workers."""
    with ThreadPoolExecutor(8) as pool:
        while True:
            for connection in pool.map(lambda _: server.connect(), range(8)):
                connection.sendall(get("/sleep/30"))
                if pid_of(connection.recv(4096)) == pid:
                    return connection
                connection.close()


KILLS = {
    "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    "SIGSEGV": lambda pid: os.kill(pid, signal.SIGSEGV),
    "SIGSTOP": lambda pid: os.kill(pid, signal.SIGSTOP),
}


@pytest.mark.parametrize("how", KILLS)
def test_a_worker_is_replaced_and_the_other_serves_on(pair: Serving, how: str) -> None:
    for _ in range(rounds(1, 7)):
        victim, other = sorted(worker_pids(pair))
        (pair.log.parent / f"gauge_liveall_{victim}.db").touch()
        held = connection_to(pair, other)
        begun = time.perf_counter()
        KILLS[how](victim)

        def replaced(held: socket.socket = held, other: int = other, victim: int = victim) -> bool:
            held.sendall(get("/sleep/0"))
            assert pid_of(held.recv(4096)) == other
            now = worker_pids(pair)
            return len(now) == 2 and victim not in now

        wait_for(replaced)
        wait_for(lambda: serving_pids(pair) == worker_pids(pair))
        seconds = time.perf_counter() - begun
        print(f"{how}: replaced in {seconds:.2f} s")
        assert seconds < REPLACED_S
        assert not (pair.log.parent / f"gauge_liveall_{victim}.db").exists()
        if SOAK:
            time.sleep(11)  # five crashes a minute are borne
    code, seconds = pair.stop()
    assert code == 0
    assert seconds < 3 + 1


def test_a_crash_loop_ends_the_parent(pair: Serving) -> None:
    dead: set[int] = set()
    for crash in range(MAX_CRASHES + 1):
        victim, *_ = worker_pids(pair)
        dead.add(victim)
        os.kill(victim, signal.SIGKILL)
        if crash < MAX_CRASHES:
            wait_for(lambda: len(worker_pids(pair) - dead) == 2)
    assert pair.process.wait(10) == 1
    assert "6 crashes" in pair.log.read_text()
    free_again(pair)


def free_again(server: Serving) -> None:
    """Nothing of it is left on its port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))
        listener.listen()


def test_a_request_that_crashes_its_worker_is_seen_to_fail(pair: Serving) -> None:
    heard = exchange(pair, closing("/crash"))
    assert heard.data == b""
    assert heard.closed
    assert exchange(pair, closing("/livez")).statuses == [200]
    wait_for(lambda: "Segmentation fault" in pair.log.read_text())
    wait_for(lambda: len(worker_pids(pair)) == 2)


def test_no_orphans_when_the_parent_is_killed(pair: Serving) -> None:
    workers = worker_pids(pair)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(exchange, pair, get("/sleep/1000"))
        time.sleep(0.3)
        pair.process.kill()
        assert running.result().statuses == [200]
    pair.process.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers), 5)
    free_again(pair)


def test_a_worker_that_does_not_end_is_killed(pair: Serving) -> None:
    victim, _ = worker_pids(pair)
    os.kill(victim, signal.SIGSTOP)
    code, seconds = pair.stop()
    assert code == 1
    assert 3 <= seconds < 3 + 1.5
    assert not psutil.pid_exists(victim)


def test_a_second_signal_ends_them_all_at_once(tmp_path: Path) -> None:
    with started(
        *TWO, log=tmp_path / "log", app=APP, settings={"DRAIN_DELAY_MS": "30000"}
    ) as server:
        wait_for(lambda: len(serving_pids(server)) == 2)
        workers = worker_pids(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        # What a process group or a service manager sends to every one of them is no second signal.
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert worker_pids(server) == workers
        code, seconds = server.stop(signal.SIGINT)
        assert code == 130
        assert seconds < 2
        assert not any(psutil.pid_exists(pid) for pid in workers)


def test_sigint_reaches_the_workers_as_such(tmp_path: Path) -> None:
    with started(
        *TWO, log=tmp_path / "log", app=APP, settings={"DRAIN_DELAY_MS": "20000"}
    ) as server:
        wait_for(lambda: len(serving_pids(server)) == 2)
        code, seconds = server.stop(signal.SIGINT)
        assert code == 0
        assert seconds < 5


async def rolled_under_load(server: Serving) -> Crowd:
    crowd = Crowd(server.port, [get("/sleep/10")], keeping=0, fresh=6)
    running = asyncio.create_task(crowd.run())
    old = worker_pids(server)
    server.process.send_signal(signal.SIGHUP)
    for _ in range(300):
        await asyncio.sleep(0.1)
        now = await asyncio.to_thread(worker_pids, server)
        if len(now) == 2 and not now & old:
            break
    crowd.stopping = True
    await running
    assert not now & old
    return crowd


def test_sighup_replaces_them_one_by_one_and_loses_nothing(pair: Serving) -> None:
    crowd = asyncio.run(rolled_under_load(pair))
    assert len(crowd.sent) > 50
    assert {sent.outcome for sent in crowd.sent} == {"200"}
    assert not crowd.refused_at
    code, _ = pair.stop()
    assert code == 0


def test_an_app_that_does_not_start_ends_the_parent(tmp_path: Path) -> None:
    environment = {"STAND_IN_FAILS": "1"}
    log = tmp_path / "log"
    command = [sys.executable, "-m", APP, "serve", "--port", "0", *TWO]
    with open(log, "wb") as output:
        done = subprocess.run(
            command, env=os.environ | environment, stderr=output, timeout=30, check=False
        )
    assert done.returncode == 3


def test_the_parent_imports_no_torch_and_no_app() -> None:
    code = """
import sys
from app.server.cli import ServingConfig, Supervisor
from app.settings import Settings
ServingConfig(Settings(), "app.server.worker:build")
sys.exit(bool({"torch", "app.main", "fastapi"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
