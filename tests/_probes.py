"""Health as a caller sees it while something else happens."""

import http.client
import threading
import time


class Probes(threading.Thread):
    """Asks /livez `number` times at fixed times; how long each answer took from its time, ms."""

    def __init__(self, port: int, number: int, rate_hz: float) -> None:
        super().__init__()
        self.took_ms: list[float] = []
        self.missed = 0
        self._port, self._number, self._rate_hz = port, number, rate_hz

    def run(self) -> None:
        begin_s = time.perf_counter()
        for number in range(self._number):
            at_s = begin_s + number / self._rate_hz
            time.sleep(max(0.0, at_s - time.perf_counter()))
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/livez")
                answer = connection.getresponse()
                answer.read()
                connection.close()
                self.missed += answer.status != 200
            except OSError:
                self.missed += 1
            self.took_ms.append((time.perf_counter() - at_s) * 1e3)
