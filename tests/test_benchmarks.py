"""The benchmarks run, and their checks find what is wrong."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import orjson
import pytest
import torch

from benchmarks.demands import Demand, demands
from benchmarks.floor import Floor
from benchmarks.load import Clients, Request, closed_loop, one_client, open_loop
from benchmarks.rounds import FLOOR, IN_PROCESS, MANY, Turn
from benchmarks.works import Work


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_brief_run_prints_its_tables() -> None:
    done = run("benchmarks", "--only", "lamina", "--floats", "16", "--rounds", "1",
               "--seconds", "0.02")  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert bool(done.returncode) == ("**no**" in done.stdout)
    for layer in ("max_pool2d", "batch_norm2d"):
        assert re.search(
            rf"^\| {layer}, 16 floats, JSON, in process: processor time \|", done.stdout, re.M
        )
        assert re.search(rf"^\| {layer}, a batch of 64 x 16 floats, JSON \|", done.stdout, re.M)
        assert re.search(rf"^\| {layer}, 16 floats, JSON \| 16 \| [\d.]+ \([\d.]+\) \|$",
                         done.stdout, re.M)  # fmt: skip


def test_the_profile_finds_every_part() -> None:
    done = run("benchmarks.profile", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "is gone" not in done.stdout
    shares = [float(share) for share in re.findall(r"([\d.]+)%", done.stdout)]
    assert sum(shares) == pytest.approx(4 * 100, abs=4)  # four works, rounded shares
    parts = re.findall(r"^  (.+?)  +([\d.]+)%", done.stdout, re.M)
    assert {name for name, share in parts if float(share) == 0} <= {"log", "metrics"}


def turns(**rates: float) -> dict[str, list[Turn]]:
    return {name.replace("_", " "): [Turn(rate, 1 / rate)] * 5 for name, rate in rates.items()}


def test_a_demand_compares_with_the_best_peer_and_with_the_time_of_the_floor() -> None:
    measured = {
        (Work("max_pool2d", 24_576), MANY): turns(lamina=90, typed=9, mosec=10, bentoml=15),
        (Work("max_pool2d", 16), 1): turns(lamina=1, floor=100, lamina_in_process=50),
    }
    assert (FLOOR, IN_PROCESS) == ("floor", "lamina in process")
    found = {one.other: one for one in demands(measured)}
    assert found["typed"].reached == 10
    assert found["typed"].is_met
    assert found["best peer (bentoml)"].reached == 6
    assert not found["best peer (bentoml)"].is_met
    assert found["the floor in process"].reached == 2
    assert found["the floor in process"].is_met
    assert not Demand("work", "other", 2.3, 2.2, at_most=True).is_met


BODY = orjson.dumps({"input": [[[[1, 2], [3, 4.5]]]]})
ANSWER = {"output": [[[[4.5]]]], "output_shape": [1, 1, 1, 1],
          "gradients": {"input": [[[[0, 0], [0, 1]]]]}, "layer": "max_pool2d"}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": [[[[4.6]]]]},
        {"output_shape": [1, 1, 1]},
        {"layer": "another"},
        {"gradients": {}},
        {"indices": [[[[3]]]]},
    ],
)
def test_a_floor_with_another_answer_is_found(wrong: dict[str, object]) -> None:
    floor = Floor("max_pool2d", BODY, (1, 1, 2, 2), {"layer": "max_pool2d"})
    floor.check(ANSWER)
    with pytest.raises(AssertionError):
        floor.check(ANSWER | wrong)


def test_both_parsers_of_the_floor_read_the_same_numbers() -> None:
    from benchmarks.floor import with_orjson, with_simdjson

    work = Work("max_pool2d", 24_576)
    body = orjson.dumps({"input": work.input}, option=orjson.OPT_SERIALIZE_NUMPY)
    wanted = torch.from_numpy(work.input).flatten()
    assert torch.equal(with_simdjson(body), wanted)
    assert torch.equal(with_orjson(body).flatten(), wanted)


SIZE = 4 << 20


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers on one connection before it reads on from any other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    lock = threading.Lock()

    def answer(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1, socket.MSG_PEEK):
                with lock:
                    left = len(WIRE)
                    while left:
                        left -= len(connection.recv(min(left, 1 << 16)))
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
                    connection.sendall(head + bytes(SIZE))

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


WIRE = Request("/", bytes(SIZE)).wire


def test_clients_read_answers_while_they_send(port: int) -> None:
    took_s, latencies = closed_loop(port, WIRE, 4, 8)
    assert len(latencies) == 8
    assert max(latencies) <= took_s


def test_a_server_may_close_connections_that_are_not_needed_any_more(port: int) -> None:
    with Clients(port, WIRE, 2) as clients:
        first = clients.send()
        while not clients.answered(5):
            pass
        assert clients.idle[-1] is first
        first.socket.shutdown(socket.SHUT_RDWR)  # as if the server had closed it
        clients.answered(5)
        assert len(clients.idle) == 1
        clients.send()
        while not clients.answered(5):
            pass


def test_the_other_loops_count_their_requests(port: int) -> None:
    assert one_client(port, WIRE, 2) > 0
    assert len(open_loop(port, WIRE, 20, 0.5)) == 10
