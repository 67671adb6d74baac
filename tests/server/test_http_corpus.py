"""Hostile and odd HTTP on raw sockets, against the service with one worker and with two."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests._serving import Serving, started
from tests._soak import within_s
from tests._wire import chunked, closing, exchange, get, post

DEADLINE_S = 10.0
MIB = 1 << 20
COMPUTE = "/v1/layers/relu"
JSON = "Content-Type: application/json"
BODY = b'{"input":[[[1,-2]]]}'
SMUGGLED = b"GET /v1/info HTTP/1.1\r\nHost: smuggled\r\n\r\n"


def framed(*headers: str, body: bytes = BODY) -> bytes:
    return get(COMPUTE, JSON, *headers, method="POST") + body


def text(lines: str) -> bytes:
    return lines.replace("\n", "\r\n").encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
REFUSED: dict[str, bytes] = {
    # Two readings of one body.
    "length and chunks": framed("Content-Length: 5", CHUNKED, body=END + SMUGGLED),
    "chunks and length": framed(CHUNKED, "Content-Length: 5", body=END + SMUGGLED),
    "two lengths": framed("Content-Length: 5", "Content-Length: 20", body=BODY + SMUGGLED),
    "two equal lengths": framed("Content-Length: 20", "Content-Length: 20"),
    "length list": framed("Content-Length: 20, 20"),
    "length +": framed("Content-Length: +20"),
    "length -1": framed("Content-Length: -1"),
    "length in hexadecimal": framed("Content-Length: 0x14"),
    "length with a fraction": framed("Content-Length: 20.0"),
    "length with an exponent": framed("Content-Length: 2e1"),
    "length of nothing": framed("Content-Length: "),
    "length of a word": framed("Content-Length: all"),
    "length over 64 bits": framed("Content-Length: 18446744073709551636"),
    "length with a space inside": framed("Content-Length: 2 0"),
    "length in Arabic digits": text(
        f"POST {COMPUTE} HTTP/1.1\nHost: a\nContent-Length: \xd9\xa2\xd9\xa0\n\n"
    ),
    "length behind a space": text(f"POST {COMPUTE} HTTP/1.1\nHost: a\nContent-Length : 5\n\n"),
    "chunked behind a space": text(f"POST {COMPUTE} HTTP/1.1\nHost: a\n{CHUNKED[:17]} : x\n\n"),
    "xchunked": framed("Transfer-Encoding: xchunked", body=END + SMUGGLED),
    "chunked twice": framed(CHUNKED, CHUNKED, body=END),
    "identity, then chunked": framed("Transfer-Encoding: identity", CHUNKED, body=END),
    "chunked, then identity": framed(CHUNKED, "Transfer-Encoding: identity", body=END),
    "gzip, chunked": framed("Transfer-Encoding: gzip, chunked", body=END),
    "chunked, identity": framed("Transfer-Encoding: chunked, identity", body=END),
    "quoted chunked": framed('Transfer-Encoding: "chunked"', body=END),
    "vertical tab chunked": framed("Transfer-Encoding: \x0bchunked", body=END),
    "folded chunked": framed("Transfer-Encoding:\r\n chunked", body=END),
    "chunks in HTTP/1.0": framed(CHUNKED, body=END).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "underscored length": framed("Content_Length: 5"),
    "underscored key": framed("Content-Length: 20", "X_Request_Id: 1"),
    "a length as a trailer": chunked(COMPUTE, b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED),
    # Chunks.
    "chunk of -1": framed(CHUNKED, body=b"-1\r\n" + END),
    "chunk of 0x2": framed(CHUNKED, body=b"0x2\r\nab\r\n" + END),
    "chunk of +2": framed(CHUNKED, body=b"+2\r\nab\r\n" + END),
    "chunk over 64 bits": framed(CHUNKED, body=b"f" * 17 + b"\r\nab\r\n"),
    "chunk of a word": framed(CHUNKED, body=b"ten\r\nab\r\n"),
    "chunk without a size": framed(CHUNKED, body=b"\r\nab\r\n"),
    "chunk longer than said": framed(CHUNKED, body=b"2\r\nabcd\r\n" + END),
    "chunk with bare line feeds": framed(CHUNKED, body=b"2\nab\n0\n\n"),
    "chunk flood": framed(CHUNKED, body=b"1\r\n1\r\n" * 400_000 + END),
    "chunk extension without end": framed(CHUNKED, body=b"1;" + b"e" * 4 * MIB),
    "chunk extension with NUL": framed(CHUNKED, body=b"1;\0\r\na\r\n" + END),
    "trailer flood": framed(CHUNKED, body=b"0\r\n" + b"T: t\r\n" * 400_000),
    "a size without end": framed(CHUNKED, body=b"0" * 4 * MIB),
    "chunks that stop": framed(CHUNKED, body=b"5\r\nab"),
    # Lying lengths.
    "longer than sent": framed("Content-Length: 1000"),
    "far longer than the limit": framed("Content-Length: 99999999999999999"),
    "shorter than sent": framed("Content-Length: 10"),
    "no length": framed("Connection: close", body=b""),
    # Line ends and spaces.
    "bare line feeds": text(f"POST {COMPUTE} HTTP/1.1\n").replace(b"\r", b"") + b"Host: a\n\n",
    "one bare line feed": b"GET /livez HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare carriage returns": b"GET /livez HTTP/1.1\rHost: a\r\r",
    "folded header": text("GET /livez HTTP/1.1\nHost: a\nX: a\n b\n\n"),
    "folded first header": text("GET /livez HTTP/1.1\n X: a\nHost: a\n\n"),
    "space in a name": text("GET /livez HTTP/1.1\nHost: a\nX Y: a\n\n"),
    "name with a control character": text("GET /livez HTTP/1.1\nHost: a\nX\x01: a\n\n"),
    "name of nothing": text("GET /livez HTTP/1.1\nHost: a\n: a\n\n"),
    "no colon": text("GET /livez HTTP/1.1\nHost: a\nnonsense\n\n"),
    "NUL in a value": text("GET /livez HTTP/1.1\nHost: a\nX: a\0b\n\n"),
    "NUL in a path": text("GET /li\0vez HTTP/1.1\nHost: a\n\n"),
    "NUL first": b"\0" + get("/livez"),
    "bytes over 127 in a path": text("GET /\xff\xfe HTTP/1.1\nHost: a\n\n"),
    "line feeds only": b"\n" * 100_000,
    "carriage returns and line feeds only": b"\r\n" * 100_000,
    # The request line.
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/0.9 with a version": b"GET /livez HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET /livez HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/3": b"GET /livez HTTP/3\r\nHost: a\r\n\r\n",
    "HTTP in small letters": b"GET /livez http/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "RTSP": b"DESCRIBE rtsp://a/b RTSP/1.0\r\n\r\n",
    "SIP": b"OPTIONS sip:a SIP/2.0\r\n\r\n",
    "SMTP": b"EHLO a\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "JSON alone": BODY,
    "noise": bytes(n * n % 251 for n in range(5000)),
    "method in small letters": b"get /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "no such method": get("/livez", method="FOO"),
    "method without end": b"A" * 4 * MIB,
    "TRACE": get("/livez", method="TRACE"),
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + SMUGGLED,
    "CONNECT to a path": get("/livez", method="CONNECT"),
    "DELETE": closing(COMPUTE, method="DELETE"),
    "PUT": closing(COMPUTE, method="PUT"),
    "asterisk": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS of the asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "relative path": b"GET livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "path of a query": b"GET ?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in a path": b"GET /li vez HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute without a path": b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute with a bad port": b"GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "file scheme": b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority": b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    # Paths.
    "dots": closing("/../../etc/passwd"),
    "encoded dots": closing("/%2e%2e/%2e%2e/etc/passwd"),
    "dots under the assets": closing("/docs/assets/..%2f..%2fmain.py"),
    "encoded NUL": closing("/livez%00"),
    "encoded NUL under the assets": closing("/docs/assets/%00"),
    "overlong UTF-8": closing("/%c0%ae%c0%ae/"),
    "broken UTF-8": closing("/%ff%fe"),
    "lone surrogate": closing("/%ed%a0%80"),
    "broken escape": closing("/%zz%"),
    "escaped line ends": closing("/%0d%0aX:%20y"),
    "two slashes": closing("//livez"),
    "long name under the assets": closing("/docs/assets/" + "a" * 5000),
    # Headers.
    "no host": text("GET /livez HTTP/1.1\n\n"),
    "two hosts": get("/livez", "Host: b"),
    "path over the limit": get("/" + "a" * 40_000),
    "path without end": b"GET /" + b"a" * 4 * MIB,
    "query over the limit": get("/livez?" + "a" * 40_000),
    "header over the limit": get("/livez", "X: " + "a" * 40_000),
    "name over the limit": get("/livez", "X" * 40_000 + ": a"),
    "header without end": get("/livez")[:-2] + b"X: " + b"a" * 4 * MIB,
    "headers without end": get("/livez")[:-2] + b"X: a\r\n" * 700_000,
    "too many headers": get("/livez", *(f"X{n}: a" for n in range(200))),
    "nothing": b"",
    "half a request line": b"GET /liv",
    "half a head": get("/livez")[:-2],
}
ODD: dict[str, tuple[bytes, list[int]]] = {
    "chunk extensions": (
        framed(CHUNKED, "Connection: close", body=b"14;a=b;c\r\n" + BODY + b"\r\n" + END),
        [200],
    ),
    "chunk sizes with zeros": (
        framed(CHUNKED, "Connection: close", body=b"0000014\r\n" + BODY + b"\r\n" + END),
        [200],
    ),
    "trailers": (
        chunked("/v1/layers", b"0\r\nHost: b\r\nX_Y: z\r\n\r\n").replace(b"POST", b"GET", 1),
        [200],
    ),
    "absolute": (b"GET http://a/livez HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n", [200]),
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", [200]),
    "empty lines first": (b"\r\n\r\n" + closing("/livez"), [200]),
    "a body with GET": (
        post("/livez", b"abc").replace(b"POST", b"GET") + closing("/livez"),
        [200, 200],
    ),
    "pipelined": (get("/livez") * 5 + closing("/livez"), [200] * 6),
    "pipelined behind close": (closing("/livez") + SMUGGLED, [200]),
    "nonsense behind a request": (get("/livez") + b"NONSENSE\r\n\r\n", [200]),
    "WebSocket": (
        get("/livez", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a")
        + closing("/livez"),
        [200, 200],
    ),
    "HTTP/2 by upgrade, with a body": (
        framed("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Content-Length: 20")
        + closing("/livez"),
        [200, 200],
    ),
    "encoded path": (closing("/%6civez"), [200]),
    "fragment": (closing("/livez#a"), [200]),
    "every byte in a value": (
        closing("/livez", "X: " + bytes([9, *range(32, 127), *range(128, 256)]).decode("latin-1"))
        .decode()
        .encode("latin-1"),
        [200],
    ),
    "expectation": (
        framed("Expect: 100-continue", "Content-Length: 20", "Connection: close"),
        [100, 200],
    ),
    "no such expectation": (
        framed("Expect: 200-ok", "Content-Length: 20", "Connection: close"),
        [200],
    ),
}


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    log: Path = tmp_path_factory.mktemp("corpus") / "log"
    settings = {
        "HEADER_TIMEOUT_MS": "1000",
        "BODY_IDLE_TIMEOUT_MS": "500",
        "KEEP_ALIVE_TIMEOUT_MS": "2000",
        "DRAIN_DELAY_MS": "0",
    }
    with started("--workers", request.param, log=log, settings=settings) as serving:
        yield serving
        assert serving.stop()[0] == 0


def test_every_case_is_refused_and_the_service_lives(service: Serving) -> None:
    assert len(REFUSED) >= 60

    def refused(case: str) -> str:
        heard = exchange(service, REFUSED[case], within_s=within_s(DEADLINE_S))
        wrong = [status for status in heard.statuses[:1] if not 400 <= status < 500]
        if not heard.closed or wrong or b"smuggled" in heard.data or b"conventions" in heard.data:
            return f"{case}: {heard.closed} {heard.seconds:.1f} s {heard.data[:200]!r}"
        for answer in heard.data.split(b"HTTP/1.1 ")[1:]:
            head, _, body = answer.partition(b"\r\n\r\n")
            if body and b"application/problem+json" in head:
                json.loads(body)
            elif body:
                return f"{case}: {answer[:300]!r}"
        return ""

    with ThreadPoolExecutor(12) as pool:
        failures = [found for found in pool.map(refused, REFUSED) if found]
    assert not failures, "\n".join(failures)
    for _ in range(4):
        assert exchange(service, closing("/livez")).statuses == [200]
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "died" not in log
    assert max(map(len, log.splitlines())) < 400


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_and_right_is_served(service: Serving, case: str) -> None:
    sent, statuses = ODD[case]
    heard = exchange(service, sent, within_s=within_s(DEADLINE_S))
    assert heard.statuses == statuses
    assert heard.closed
    assert b"smuggled" not in heard.data
