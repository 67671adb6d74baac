"""`make bench`: requests a second against the plain service, in alternating rounds.

Both services listen on loopback with one process and may use every core; one client sends over
one kept connection, and reads answers without parsing them.
"""

import argparse
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import orjson

SHAPES = {16: (1, 1, 4, 4), 24_576: (8, 3, 32, 32), 802_816: (4, 64, 56, 56)}
REQUESTS = {16: 200, 24_576: 10, 802_816: 1}
DEMANDS = {
    "max_pool2d": {16: 1.3, 24_576: 8, 802_816: 15},
    "batch_norm2d": {16: 1.3, 24_576: 8, 802_816: 10},
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_pool2d": ({"kernel_size": 2}, {"kernel_size": 2, "grad_output": "ones"}),
    "batch_norm2d": ({}, {"training": True, "grad_output": "ones"}),
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Connection:
    """A kept connection that does nothing but send bytes and read answers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(64 << 20)

    def post(self, path: str, body: bytes) -> memoryview:
        """The body of the answer; raises unless its status is 200."""
        self._socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        view, got, end = memoryview(self._buffer), 0, -1
        while end < 0:
            got += self._socket.recv_into(view[got:])
            end = self._buffer.find(b"\r\n\r\n", 0, got)
        head = bytes(view[:end]).lower()
        start = end + 4
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        while got < start + length:
            got += self._socket.recv_into(view[got:])
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{path}: {bytes(view[: min(got, 600)])!r}")
        return view[start : start + length]


@contextmanager
def serving(command: list[str]) -> Iterator[Connection]:
    """A service in a process of its own, and a connection to it."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", *command, "--port", str(port)])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                connection = Connection(port)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield connection
    finally:
        process.terminate()
        process.wait()


def verify(plain: bytes, ours: bytes) -> None:
    """Both give the same numbers."""
    theirs, mine = orjson.loads(plain), orjson.loads(ours)
    pairs = [(theirs["output"], mine["output"])]
    for name, gradient in mine["gradients"].items():
        pairs.append((theirs[f"grad_{name}"], gradient))
    for name in ("mean", "var"):
        if f"running_{name}" in theirs:
            pairs.append((theirs[f"running_{name}"], mine["running_stats"][name]))
    for expected, actual in pairs:
        np.testing.assert_allclose(np.array(actual), np.array(expected), rtol=1e-4, atol=1e-3)


def rate(connection: Connection, path: str, body: bytes, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        connection.post(path, body)
    return count / (time.perf_counter() - begun)


def compare(
    plain: Connection, ours: Connection, layer: str, floats: int, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Requests a second, a round each: plain, typed, Lamina."""
    x = np.random.default_rng(0).standard_normal(SHAPES[floats], "f4")
    theirs, mine = (
        orjson.dumps({"input": x, **options}, option=orjson.OPT_SERIALIZE_NUMPY)
        for options in OPTIONS[layer]
    )
    contestants = (
        (plain, f"/{layer}", theirs),
        (plain, f"/typed/{layer}", theirs),
        (ours, f"/v1/layers/{layer}", mine),
    )
    answers = [bytes(connection.post(path, body)) for connection, path, body in contestants]
    verify(answers[0], answers[2])
    rates: tuple[list[float], list[float], list[float]] = ([], [], [])
    for index in range(rounds):
        for i in (0, 1, 2) if index % 2 else (2, 1, 0):
            rates[i].append(rate(*contestants[i], REQUESTS[floats]))
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    missed = False
    with ExitStack() as stack:
        uvicorn = ["uvicorn", "benchmarks.plain_service:app", "--no-access-log"]
        plain = stack.enter_context(serving([*uvicorn, "--log-level", "warning"]))
        ours = stack.enter_context(serving(["app.server.cli", "serve"]))
        print(
            "| layer | floats | plain /s | typed /s | lamina /s | lamina : plain | at least "
            "| lamina : typed |\n|---|---|---|---|---|---|---|---|"
        )
        for layer, demands in DEMANDS.items():
            for floats, demand in demands.items():
                rates = compare(plain, ours, layer, floats, rounds)
                to_plain, to_typed = (
                    statistics.median(
                        mine / theirs for mine, theirs in zip(rates[2], peer, strict=True)
                    )
                    for peer in rates[:2]
                )
                missed |= to_plain < demand
                middles = " | ".join(f"{statistics.median(rate):.1f}" for rate in rates)
                print(
                    f"| {layer} | {floats} | {middles} | {to_plain:.1f} | {demand} "
                    f"| {to_typed:.1f} |",
                    flush=True,
                )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
