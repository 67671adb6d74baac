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
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from app.server.supervisor import MAX_CRASHES
from tests._load import Crowd
from tests._serving import Serving, started, wait_for
from tests._soak import SOAK, within_s
from tests._wire import ask, begun, closing, exchange, get, hear
from tests.server.stand_in import APP

REPLACED_S = 5.0
TWO = ("--workers", "2")
FOR_LONG = {"DRAIN_DELAY_MS": "600000", "DRAIN_GRACE_MS": "660000"}
"""A drain that no test waits for."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Serving]:
    settings = {"DRAIN_DELAY_MS": "0", "DRAIN_GRACE_MS": "3000"}
    with started(*TWO, log=tmp_path / "log", app=APP, settings=settings) as pair:
        wait_for(lambda: len(serving_pids(pair)) == 2)
        yield pair


def serving_pids(server: Serving) -> set[int]:
    """Of the workers that answer new connections; both of two will do so within a few."""
    with ThreadPoolExecutor(8) as pool:
        return set(
            pool.map(lambda _: pid_of(exchange(server, closing("/sleep/30")).data), range(8))
        )


def drains(server: Serving) -> bool:
    """Whether all workers say so; both of two will answer within a few."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: exchange(server, closing("/ready")), range(8))
        return all(answer.statuses == [503] for answer in answers)


def pid_of(data: bytes) -> int:
    return int(data.rpartition(b" ")[2])


def worker_pids(server: Serving) -> set[int]:
    """As the system sees them; without the helper that multiprocessing starts."""
    found = set()
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def connection_to(server: Serving, pid: int) -> socket.socket:
    """A kept connection to one of the workers."""
    with ThreadPoolExecutor(8) as pool:
        while True:
            for connection in pool.map(lambda _: server.connect(), range(8)):
                if pid_of(ask(connection, get("/sleep/30"))) == pid:
                    return connection
                connection.close()


def crash(server: Serving, pid: int) -> None:
    """By a request."""
    with connection_to(server, pid) as connection:
        connection.sendall(get("/crash"))
        assert connection.recv(4096) == b""


KILLS: dict[str, Callable[[Serving, int], None]] = {
    "SIGKILL": lambda _, pid: os.kill(pid, signal.SIGKILL),
    "SIGSTOP": lambda _, pid: os.kill(pid, signal.SIGSTOP),
    "SIGSEGV": lambda _, pid: os.kill(pid, signal.SIGSEGV),
    "a request": crash,
}


def replaced_after(server: Serving, kill: Callable[[Serving, int], None]) -> float:
    """Seconds until two workers serve again; the other one answers all the while."""
    victim, other = sorted(worker_pids(server))
    folder = Path(psutil.Process(victim).environ()["PROMETHEUS_MULTIPROC_DIR"])
    gauge = folder / f"gauge_liveall_{victim}.db"
    gauge.touch()
    held = connection_to(server, other)
    begun = time.perf_counter()
    kill(server, victim)

    def replaced() -> bool:
        assert pid_of(ask(held, get("/sleep/0"))) == other
        now = worker_pids(server)
        return len(now) == 2 and victim not in now

    wait_for(replaced)
    wait_for(lambda: serving_pids(server) == worker_pids(server))
    assert not gauge.exists()
    return time.perf_counter() - begun


def test_workers_are_replaced_and_the_sixth_crash_ends_the_parent(pair: Serving) -> None:
    kills = ["SIGKILL", "SIGSTOP", "SIGSEGV", "a request", "SIGKILL"]
    assert len(kills) == MAX_CRASHES
    for kill in kills:
        seconds = replaced_after(pair, KILLS[kill])
        print(f"{kill}: replaced in {seconds:.2f} s")
        assert seconds < within_s(REPLACED_S)
    log = pair.log.read_text()
    assert log.count("Segmentation fault") == 2
    while pair.process.poll() is None:  # once is enough, unless the first was a minute ago
        with suppress(psutil.Error, ProcessLookupError):
            for pid in worker_pids(pair):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert pair.process.wait() == 1
    assert "6 crashes" in pair.log.read_text()
    free_again(pair)


def starts(server: Serving) -> int:
    return server.log.read_text().count("Application startup complete")


def owner(server: Serving, connection: socket.socket) -> int:
    """The worker that holds the other end of a connection."""
    port = connection.getsockname()[1]
    for pid in worker_pids(server):
        ends = psutil.Process(pid).net_connections()
        if any(end.raddr and end.raddr.port == port for end in ends):
            return pid
    raise AssertionError


@pytest.mark.skipif(not SOAK, reason="five minutes")
def test_the_services_workers_are_replaced_in_time(tmp_path: Path) -> None:
    settings = {"DRAIN_DELAY_MS": "0"}
    with started(*TWO, log=tmp_path / "log", settings=settings) as server:
        wait_for(lambda: starts(server) == 2)
        kills = [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]
        for turn in range(20):
            held = server.connect()
            ask(held, get("/livez"))
            (victim,) = worker_pids(server) - {owner(server, held)}
            before = starts(server)
            begun = time.perf_counter()
            os.kill(victim, kills[turn % 3])
            answers = 0
            while starts(server) == before:
                assert ask(held, get("/livez")).startswith(b"HTTP/1.1 200")
                answers += 1
                time.sleep(0.01)
            seconds = time.perf_counter() - begun
            print(f"{kills[turn % 3].name}: replaced in {seconds:.2f} s, {answers} answers")
            assert seconds < REPLACED_S
            assert len(worker_pids(server)) == 2
            held.close()
            time.sleep(12)  # five crashes a minute are borne
        assert server.stop()[0] == 0


def free_again(server: Serving) -> None:
    """Nothing of it is left on its port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))
        listener.listen()


def test_no_orphans_when_the_parent_is_killed(pair: Serving) -> None:
    workers = worker_pids(pair)
    running = begun(pair, "/sleep/1000")
    pair.process.kill()
    assert hear(running).statuses == [200]
    pair.process.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    free_again(pair)


def test_a_second_signal_ends_them_all_at_once(tmp_path: Path) -> None:
    with started(*TWO, log=tmp_path / "log", app=APP, settings=FOR_LONG) as server:
        wait_for(lambda: len(serving_pids(server)) == 2)
        workers = worker_pids(server)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: drains(server))
        # What a process group or a service manager sends to every one of them is no second signal.
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert worker_pids(server) == workers
        code, seconds = server.stop(signal.SIGINT)
        assert code == 130
        assert seconds < within_s(2)
        assert not any(psutil.pid_exists(pid) for pid in workers)


def test_sigint_reaches_the_workers_as_such(tmp_path: Path) -> None:
    with started(*TWO, log=tmp_path / "log", app=APP, settings=FOR_LONG) as server:
        wait_for(lambda: len(serving_pids(server)) == 2)
        code, seconds = server.stop(signal.SIGINT)
        assert code == 0
        assert seconds < within_s(5)


async def rolled_under_load(server: Serving) -> Crowd:
    crowd = Crowd(server.port, [get("/sleep/10")], keeping=0, fresh=6)
    running = asyncio.create_task(crowd.run())
    old = worker_pids(server)
    server.process.send_signal(signal.SIGHUP)
    now = old
    while len(now) != 2 or now & old or crowd.answered <= 50:
        await asyncio.sleep(0.1)
        now = await asyncio.to_thread(worker_pids, server)
    crowd.stopping = True
    await running
    return crowd


def test_sighup_loses_nothing_and_a_worker_that_does_not_end_is_killed(pair: Serving) -> None:
    crowd = asyncio.run(rolled_under_load(pair))
    assert {sent.outcome for sent in crowd.sent} == {"200"}
    assert not crowd.refused_at
    victim, _ = worker_pids(pair)
    os.kill(victim, signal.SIGSTOP)
    code, seconds = pair.stop()
    assert code == 1
    assert 3 <= seconds < 3 + within_s(1.5)
    assert not psutil.pid_exists(victim)


KEY, OTHER = "an-old-key-0123456789", "a-new-key-0123456789"


def keys_of(server: Serving) -> set[str]:
    """The keys that the workers have; both of two will answer within a few."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: exchange(server, closing("/keys")).data, range(8))
        return {answer.rpartition(b"\r\n")[2].decode() for answer in answers}


def test_keys_are_read_at_the_start_and_at_sighup(tmp_path: Path) -> None:
    file, log = tmp_path / "keys", tmp_path / "log"
    file.write_text(KEY)
    settings = {"DRAIN_DELAY_MS": "0", "API_KEYS_FILE": str(file)}
    with started(*TWO, log=log, app=APP, settings=settings) as server:
        wait_for(lambda: len(serving_pids(server)) == 2)
        for refusals, broken in enumerate(("weak", ""), 1):
            file.write_text(broken)
            server.process.send_signal(signal.SIGHUP)
            wait_for(
                lambda: log.read_text().count("keeping the workers") == refusals  # noqa: B023
            )
            victim, other = sorted(worker_pids(server))
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(serving_pids(server)) == 2 and victim not in serving_pids(server))  # noqa: B023
            assert other in worker_pids(server)
            assert keys_of(server) == {KEY}
        file.write_text(f"{KEY}\n{OTHER}")
        old = worker_pids(server)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: keys_of(server) == {f"{KEY},{OTHER}"} and not worker_pids(server) & old)
        assert KEY not in log.read_text()
        assert server.stop()[0] == 0


def test_sighup_drains_a_process_that_has_no_parent(tmp_path: Path) -> None:
    settings = {"DRAIN_DELAY_MS": "500"}
    with started(log=tmp_path / "log", app=APP, settings=settings) as server:
        running = begun(server, "/sleep/1000")
        code, _ = server.stop(signal.SIGHUP)
        assert hear(running).statuses == [200]
        assert code == 0


def test_sighup_to_all_of_a_terminal_kills_no_worker(pair: Serving) -> None:
    old = worker_pids(pair)
    for pid in old:
        os.kill(pid, signal.SIGHUP)
    time.sleep(1)
    assert worker_pids(pair) == old


def test_an_app_that_does_not_start_ends_the_parent(tmp_path: Path) -> None:
    environment = {"STAND_IN_FAILS": "1"}
    log = tmp_path / "log"
    command = [sys.executable, "-m", APP, "serve", "--port", "0", *TWO]
    with open(log, "wb") as output:
        done = subprocess.run(
            command, env=os.environ | environment, stderr=output, timeout=120, check=False
        )
    assert done.returncode == 3


def test_the_parent_imports_no_torch_and_no_app() -> None:
    code = """
import sys
from app.server.launch import ServingConfig, Supervisor
from app.settings import Settings
ServingConfig(Settings(), "app.server.worker:build")
sys.exit(bool({"torch", "app.main", "fastapi"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_worker_whose_device_failed_is_replaced(pair: Serving) -> None:
    before = serving_pids(pair)
    assert exchange(pair, closing("/lose-device")).data.endswith(b"lost")
    wait_for(lambda: "(70)" in pair.log.read_text())
    wait_for(lambda: len(serving_pids(pair) - before) == 1)
    wait_for(lambda: len(serving_pids(pair)) == 2)


def test_a_process_whose_device_failed_ends(tmp_path: Path) -> None:
    with started(log=tmp_path / "log", app=APP) as server:
        assert exchange(server, closing("/lose-device")).data.endswith(b"lost")
        assert server.process.wait(120) == 70
