"""Requests to a service at a URL that a person named on the command line."""

import http.client
from collections.abc import Callable
from urllib.parse import urlsplit

TIMEOUT_S = 60
Ask = Callable[[str, bytes], tuple[int, bytes]]
"""Posts a body to a path, and returns the status and the answer's body."""


class Unreachable(Exception):
    """Nothing at the URL answers; the message says why."""


def over_http(url: str) -> Ask:
    """Ask the service at this URL, which may have a path in front of `/v1`.

    Raises:
        Unreachable: not the URL of a service.

    """
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise Unreachable(f"expected a URL such as http://127.0.0.1:8000; got {url!r}")
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=TIMEOUT_S)

    def ask(path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            connection.request("POST", parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{url}: {error or type(error).__name__}") from error

    return ask
