"""Raw bytes to a server and back."""

import socket
import time
from dataclasses import dataclass

from tests._serving import Serving

JSON = "Content-Type: application/json"
LIMIT_S = 60.0


@dataclass
class Heard:
    """What came back on one connection until it was closed."""

    data: bytes
    closed: bool
    seconds: float
    reset: bool = False

    @property
    def statuses(self) -> list[int]:
        """Of every response, in order."""
        lines = self.data.split(b"HTTP/1.1 ")[1:]
        return [int(line[:3]) for line in lines]


def exchange(
    server: Serving, *pieces: bytes, within_s: float = LIMIT_S, pause_s: float = 0
) -> Heard:
    """Sends the pieces, and reads until the server closes the connection."""
    begun = time.perf_counter()
    with server.connect(within_s) as connection:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(pause_s)
            try:
                connection.sendall(piece)
            except ConnectionError:
                # The answer may still be there, on this system; it need not be on another.
                heard = hear(connection, begun, within_s)
                heard.reset = True
                return heard
        return hear(connection, begun, within_s)


def hear(connection: socket.socket, since: float | None = None, within_s: float = LIMIT_S) -> Heard:
    """Reads until the server closes the connection."""
    data, begun = b"", time.perf_counter() if since is None else since
    while True:
        try:
            connection.settimeout(max(0.01, begun + within_s - time.perf_counter()))
            piece = connection.recv(1 << 16)
        except TimeoutError:
            return Heard(data, False, time.perf_counter() - begun)
        except ConnectionError:
            return Heard(data, True, time.perf_counter() - begun, reset=True)
        if not piece:
            return Heard(data, True, time.perf_counter() - begun)
        data += piece


def ask(connection: socket.socket, request: bytes) -> bytes:
    """One answer on a connection that stays open."""
    connection.sendall(request)
    data = b""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if blank and len(body) == int(length):
            return data
        piece = connection.recv(1 << 16)
        if not piece:
            raise ConnectionError("closed within an answer")
        data += piece


def begun(server: Serving, path: str, *headers: str) -> socket.socket:
    """A connection on which an app has begun with a request: it asked for the body."""
    connection = server.connect()
    connection.sendall(post(path, b"1", "Expect: 100-continue", *headers)[:-1])
    told = b""
    while not told.endswith(b"\r\n\r\n"):
        told += connection.recv(1)
    assert told.startswith(b"HTTP/1.1 100 ")
    connection.sendall(b"1")
    return connection


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


def closing(path: str, *headers: str, method: str = "GET") -> bytes:
    return get(path, "Connection: close", *headers, method=method)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """With the body's length, unless the headers say how long it is."""
    framed = any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in headers)
    length = () if framed else (f"Content-Length: {len(body)}",)
    return get(path, *length, *headers, method="POST") + body


def chunked(path: str, body: bytes) -> bytes:
    return get(path, "Transfer-Encoding: chunked", "Connection: close", method="POST") + body
