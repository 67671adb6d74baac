"""Rates by key or address: what counts together, how long, in how much memory, behind proxies."""

import http.client
import random
import threading
import time
import tracemalloc
from typing import Any

import pytest

from app.api.guard import Guard
from app.api.layers import FastPath
from app.api.problems import headers_of_error
from app.api.rates import Rates
from app.errors import RateLimited
from app.main import create_app
from app.observability.clients import address_of, network_of
from app.observability.labels import PROBES
from app.settings import Settings, SettingsError, load_settings
from tests._serving import serving
from tests._soak import MEASURES
from tests._work import counted_lines
from tests.api.test_keys import HEADERS, KEY, OTHER, calling, parts_of


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def wait_of(rates: Rates, client: str = "a") -> int | None:
    """None where a request is taken, else how long to wait by Retry-After, s."""
    try:
        rates.take(client)
    except RateLimited as error:
        return int(headers_of_error(error)["Retry-After"])
    return None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 60, 1000])
@pytest.mark.parametrize("phase_s", [0.0, 1.3, 31.0, 59.9])
def test_a_burst_of_the_limit_then_the_wait_that_was_told(
    limit: int, phase_s: float, clock: Clock
) -> None:
    rates = Rates(limit)
    clock.now += phase_s
    assert [wait_of(rates) for _ in range(limit)] == [None] * limit
    wait_s = wait_of(rates)
    assert wait_s is not None
    assert 1 <= wait_s <= 61
    assert wait_of(rates, "b") is None, "another client is not held up"
    clock.now += wait_s
    assert wait_of(rates) is None, "what Retry-After says, holds"


def test_in_the_long_run_the_limit_is_kept(clock: Clock) -> None:
    rates, source, taken = Rates(30), random.Random(5), 0
    for _ in range(20_000):
        clock.now += source.expovariate(10.0)
        taken += wait_of(rates) is None
    minutes = (clock.now - Clock.now) / 60
    assert 30 * (minutes - 1) <= taken <= 30 * (minutes + 1)


def test_refused_requests_do_not_count(clock: Clock) -> None:
    rates = Rates(2)
    for _ in range(500):
        wait_of(rates)
    clock.now += 120
    assert wait_of(rates) is None


def test_many_addresses_take_bounded_memory_and_are_forgotten(clock: Clock) -> None:
    rates = Rates(10, max_counters=5000)
    counters = rates._window.storage.storage  # type: ignore[attr-defined]
    threads = threading.active_count()
    tracemalloc.start()
    for number in range(20_000):
        clock.now += 0.001
        rates.take(f"client-{number}")
        assert len(counters) <= 5000
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 5 << 20
    assert threading.active_count() <= threads, "the library's timers do not run"
    clock.now += 121
    rates.take("late")
    assert len(counters) == 1


def test_the_work_of_a_request_does_not_grow_with_the_clients() -> None:
    def lines(clients: int) -> int:
        rates = Rates(1_000_000)
        for number in range(clients):
            rates.take(str(number))
        return counted_lines(lambda: rates.take("0"))

    assert lines(20_000) == lines(10)


@MEASURES
def test_the_time_of_a_request_does_not_grow_with_the_clients() -> None:
    def median_us(clients: int) -> float:
        rates, times = Rates(1_000_000), []
        for number in range(clients):
            rates.take(str(number))
        for number in range(2000):
            begun = time.perf_counter()
            rates.take(str(number % clients))
            times.append(time.perf_counter() - begun)
        return sorted(times)[1000] * 1e6

    # Measured: 6 us and 8 us; the library's own storage looks through all of them.
    assert median_us(50_000) < 10 * median_us(10) + 20


@pytest.mark.parametrize(
    ("client", "address", "together"),
    [
        (("192.0.2.1", 80), "192.0.2.1", "192.0.2.1"),
        (("192.0.2.1", 81), "192.0.2.1", "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 1), "2001:db8:1:2::", "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1", "192.0.2.1"),
        (("fe80::1%eth0", 1), "fe80::1", "fe80::/64"),
        (("fe80::1%<script>", 1), "fe80::1", "fe80::/64"),
        # What a proxy passes on that is no address is neither printed nor its own client.
        (("not:an:address", 1), "unknown", "unknown"),
        (("<script>", 1), "unknown", "unknown"),
        (("192.0.2.1\n", 1), "unknown", "unknown"),
        (("x" * 30_000, 1), "unknown", "unknown"),
        (("", 1), "unknown", "unknown"),
        (None, "unknown", "unknown"),
    ],
)
def test_what_counts_together(client: Any, address: str, together: str) -> None:
    assert address_of({"client": client}) == address
    assert network_of({"client": client}) == together


def limited(per_minute: int, **settings: Any) -> Any:
    return create_app(Settings(max_requests_per_minute=per_minute, **settings))


@pytest.mark.anyio
async def test_over_the_rate_is_429_in_the_protocols_form(clock: Clock) -> None:
    app = limited(2)
    async with calling(app) as http:
        assert [(await http.get("/v1/info")).status_code for _ in range(3)] == [200, 200, 429]
        refused = await http.post("/v1/layers/relu", json={"input": [1]})
        assert refused.json()["type"] == "/errors/rate-limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        other = await http.post("/v2/models/relu/infer", json={})
        assert other.status_code == 429
        assert other.json().keys() == {"error"}
        assert 1 <= int(other.headers["Retry-After"]) <= 61
        for path in PROBES:
            for _ in range(5):
                assert (await http.get(path)).status_code == 200
        clock.now += int(refused.headers["Retry-After"])
        assert (await http.get("/v1/info")).status_code == 200
    async with calling(app, client=("192.0.2.9", 1)) as stranger:
        assert (await stranger.get("/v1/info")).status_code == 200


@pytest.mark.anyio
async def test_each_key_has_its_own_rate_whatever_its_address(clock: Clock) -> None:
    app = limited(2, api_keys=f"{KEY},{OTHER}")
    for number in range(3):
        async with calling(app, client=(f"192.0.2.{number}", 1)) as http:
            status = (await http.get("/v1/info", headers=HEADERS)).status_code
            assert status == (429 if number == 2 else 200)
    async with calling(app) as http:
        other = {"Authorization": f"Bearer {OTHER}"}
        assert (await http.get("/v1/info", headers=other)).status_code == 200


@pytest.mark.anyio
async def test_guesses_count_by_address_and_hold_up_no_key(clock: Clock) -> None:
    async with calling(limited(3, api_keys=KEY)) as http:
        statuses = []
        for number in range(5):
            guess = {"Authorization": f"Bearer {number:020}"}
            # Of paths that are not limited a guess counts as well.
            path = ("/metrics", "/nowhere")[number % 2]
            statuses.append((await http.get(path, headers=guess)).status_code)
        assert statuses == [401, 401, 401, 429, 429]
        assert (await http.get("/v1/info", headers=HEADERS)).status_code == 200


def test_without_keys_and_rates_nothing_stands_in_the_way() -> None:
    def kinds(app: Any) -> set[type]:
        return {type(part) for part in parts_of(app)}

    assert {Guard, FastPath} <= kinds(limited(1))
    assert {Guard, FastPath} & kinds(create_app(Settings())) == {FastPath}


FORWARDED = ("198.51.100.1", "198.51.100.2", "198.51.100.3")
BURST = 8
"""More than twice the limit of 3, and so more than two windows take."""


def statuses(port: int, *forwarded: str) -> list[int]:
    """Of requests one after the other, each with these lines of X-Forwarded-For."""
    found = []
    for line in forwarded:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("GET", "/v1/info")
        for value in line.split("|"):
            connection.putheader("X-Forwarded-For", value)
        connection.endheaders()
        found.append(connection.getresponse().status)
        connection.close()
    return found


def test_a_stranger_cannot_name_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # Uvicorn's own variable, which settings that are ours alone must win over.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serving(MAX_REQUESTS_PER_MINUTE="3") as port:
        assert 429 in statuses(port, *(f"198.51.100.{n}" for n in range(BURST)))


def test_of_a_trusted_proxy_the_rightmost_untrusted_address_counts() -> None:
    with serving(MAX_REQUESTS_PER_MINUTE="3", TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8") as port:
        own = statuses(port, *(f"198.51.100.{n}" for n in range(BURST)))
        assert set(own) == {200}
        # What stands to the left of it, the client wrote.
        spoofed = statuses(port, *(f"203.0.113.{n}, 192.0.2.1" for n in range(BURST)))
        assert 429 in spoofed
        # A second proxy of ours stands to the right.
        chain = statuses(port, *(f"203.0.113.{n}, 192.0.2.2, 10.9.9.9" for n in range(BURST)))
        assert 429 in chain
        lines = statuses(port, *(f"203.0.113.{n}|192.0.2.3|10.9.9.9" for n in range(BURST)))
        assert 429 in lines
        # By themselves those addresses are within their rates.
        assert statuses(port, "192.0.2.4", "203.0.113.1, 192.0.2.5") == [200, 200]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("*", "expected IP addresses"),
        ("10.0.0.1,*", "expected IP addresses"),
        ("proxy.example", "expected IP addresses"),
        ("10.0.0.1/8", "expected IP addresses"),
        ("10.0.0.0/33", "expected IP addresses"),
        ("10.0.0.1:80", "expected IP addresses"),
        ("0.0.0.0/0", "every address"),
        ("10.0.0.0/8, ::/0", "every address"),
    ],
)
def test_proxies_are_named_narrowly(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_TRUSTED_PROXIES", value)
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings()
    assert str(caught.value).startswith("LAMINA_TRUSTED_PROXIES=")
    assert "\n" not in str(caught.value)


def test_proxies_may_be_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_TRUSTED_PROXIES", "10.0.0.1, 172.16.0.0/12,::1,fd00::/8")
    assert load_settings().trusted_proxies == ("10.0.0.1", "172.16.0.0/12", "::1", "fd00::/8")
