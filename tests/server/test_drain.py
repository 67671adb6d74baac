"""The end of the process: nothing lost, nobody can hold it up."""

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests._load import Crowd
from tests._serving import Serving, started, wait_for
from tests._soak import SOAK, rounds, within_s
from tests._wire import ask, begun, closing, exchange, get, hear, post
from tests.server.stand_in import APP

MIB = 1 << 20
SLACK_S = 1.0
FOR_LONG = {"DRAIN_DELAY_MS": "600000", "DRAIN_GRACE_MS": "660000"}
"""A drain that no test waits for."""
COMPUTE = post(
    "/v1/layers/max_pool2d",
    b'{"input":{"shape":[1,1,64,64],"data":[' + b"0.5," * 4095 + b'1]},"kernel_size":2}',
    "Content-Type: application/json",
)


def attach_slow_clients(server: Serving, upload: bytes, large: str) -> None:
    """Half a head, half a body, one that does not read, one that is silent."""
    for sent in (
        get("/livez")[:-2],
        upload[:-5],
        b"".join(get(large) for _ in range(16)),
        b"",
    ):
        server.connect().sendall(sent)


def refuses(server: Serving) -> bool:
    """Whether it takes no more connections."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


async def drained_under_load(
    server: Serving, requests: list[bytes], delay_s: float
) -> tuple[Counter[str], float]:
    """Sends SIGTERM to a busy server; what became of the requests, and when it was sent."""
    crowd = Crowd(server.port, requests)
    running = asyncio.create_task(crowd.run())
    begun = time.perf_counter()
    while crowd.answered <= 10 or time.perf_counter() < begun + 0.7:
        await asyncio.sleep(0.01)
    asked = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await running
    found: Counter[str] = Counter()
    for sent in crowd.sent:
        when = "before" if sent.at < asked else "delay" if sent.at < asked + delay_s else "after"
        found[f"{when} {sent.outcome}"] += 1
        if when == "delay" and sent.at > asked + 0.5 and sent.outcome != "lost":
            found[f"delay close={sent.asked_to_close}"] += 1
        found["told to close"] += sent.asked_to_close
    found["refused in the delay"] = sum(at < asked + delay_s for at in crowd.refused_at)
    return found, asked


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(rounds(3, 50)))
def test_sigterm_under_load_loses_nothing(tmp_path: Path, turn: int) -> None:
    delay_s, grace_s = 1.0, 4.0
    service = SOAK or turn == 2
    app = "app.server.cli" if service else APP
    upload = COMPUTE if service else post("/echo", bytes(9999))
    large = "/openapi.json" if service else "/large/1000000"
    requests = [upload, get("/livez" if service else "/sleep/20")]
    settings = {"DRAIN_DELAY_MS": "1000", "DRAIN_GRACE_MS": "4000"}
    workers = str(1 + turn % 2)
    with started("--workers", workers, log=tmp_path / "log", app=app, settings=settings) as server:
        attach_slow_clients(server, upload, large)
        found, asked = asyncio.run(drained_under_load(server, requests, delay_s))
        code = server.process.wait(120)
        seconds = time.perf_counter() - asked
        print(f"round {turn}: {dict(found)}; exit {code} in {seconds:.2f} s")
        assert found["before lost"] == 0
        assert found["before 200"] > 10
        assert found["delay lost"] == 0
        assert found["told to close"]
        if SOAK:
            assert found["delay 200"] > 10
            assert found["delay close=False"] == 0
        assert found["refused in the delay"] == 0
        assert code == 0
        assert seconds < grace_s + within_s(SLACK_S)
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_what_came_before_the_signal_is_answered(tmp_path: Path, sig: signal.Signals) -> None:
    """Also what lies in the kernel: on idle connections, on new ones, on those not accepted."""
    with started(log=tmp_path / "log", app=APP, settings={"DRAIN_DELAY_MS": "0"}) as server:
        idle = [server.connect() for _ in range(20)]
        for connection in idle:
            assert ask(connection, get("/livez")).startswith(b"HTTP/1.1 200")
        silent = [server.connect() for _ in range(20)]
        time.sleep(0.2)
        server.process.send_signal(signal.SIGSTOP)
        waiting = [*idle, *silent, *(server.connect() for _ in range(100))]
        for connection in waiting:
            connection.sendall(get("/sleep/100"))
        server.process.send_signal(sig)
        server.process.send_signal(signal.SIGCONT)
        heard = [hear(connection) for connection in waiting]
        assert [h.statuses for h in heard] == [[200]] * 140
        assert all(b"connection: close" in h.data and h.closed and not h.reset for h in heard)
        assert server.process.wait(120) == 0


@pytest.mark.slow
def test_the_delay(tmp_path: Path) -> None:
    with started(log=tmp_path / "log", app=APP, settings={"DRAIN_DELAY_MS": "10000"}) as server:
        idle = server.connect()
        assert exchange(server, closing("/ready")).statuses == [200]
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: exchange(server, closing("/ready")).statuses == [503])
        heard = exchange(server, get("/ready"))
        assert heard.statuses == [503]
        assert b"connection: close" in heard.data
        # Once a second the headers are made anew.
        time.sleep(1.2)
        assert b"connection: close" in exchange(server, get("/livez")).data
        idle.sendall(get("/livez"))
        assert hear(idle).statuses == [200]
        wait_for(lambda: refuses(server))
        assert server.process.wait(120) == 0


def test_sigint_skips_the_delay_and_finishes_what_runs(tmp_path: Path) -> None:
    with started(log=tmp_path / "log", app=APP, settings=FOR_LONG) as server:
        running = begun(server, "/sleep/1500")
        code, seconds = server.stop(signal.SIGINT)
        assert hear(running).statuses == [200]
        assert code == 0
        assert seconds < within_s(5)


def test_what_cannot_finish_is_told_so(tmp_path: Path) -> None:
    settings = {"DRAIN_DELAY_MS": "0", "DRAIN_GRACE_MS": "2000"}
    with started(log=tmp_path / "log", app=APP, settings=settings) as server:
        running = begun(server, "/sleep/600000")
        code, seconds = server.stop()
        heard = hear(running)
        assert heard.statuses == [503]
        assert b'"type":"/errors/draining"' in heard.data
        assert b"retry-after" in heard.data
        assert code == 0
        assert seconds < 2 + within_s(SLACK_S)
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, sig: signal.Signals) -> None:
    with started(log=tmp_path / "log", app=APP, settings=FOR_LONG) as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: exchange(server, closing("/ready")).statuses == [503])
        code, seconds = server.stop(sig)
        assert code == 128 + sig
        assert seconds < within_s(SLACK_S)


def test_a_process_that_hangs_ends_all_the_same(tmp_path: Path) -> None:
    settings = {"DRAIN_DELAY_MS": "0", "DRAIN_GRACE_MS": "1500"}
    with started(log=tmp_path / "log", app=APP, settings=settings) as server:
        connection = server.connect()
        connection.sendall(get("/hang"))
        time.sleep(0.3)
        code, seconds = server.stop()
        assert code == 1
        assert seconds < 1.5 + within_s(SLACK_S)
        assert "stand_in.py" in server.log.read_text()  # where it hung
