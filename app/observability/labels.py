"""Labels for requests in logs and traces: from closed sets, never text from the client."""

from collections.abc import Collection, Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
UNMATCHED = "unmatched"
PROBES = frozenset(("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"))
"""Paths that monitoring polls every few seconds: not logged, not traced, not rate-limited."""
PHASES = {
    b"queue": "queue_ms",
    b"decode": "decode_ms",
    b"compute": "compute_ms",
    b"encode": "encode_ms",
}


class Labels:
    """Maps a path to its route's template and to the layer that it names.

    The paths of all layers are looked up in a dictionary; others are matched against the routes.
    """

    def __init__(self, routes: Sequence[BaseRoute], layers: Collection[str]) -> None:
        contexts = list(iter_route_contexts(routes))
        self._layers = frozenset(layers)
        self._routes = [(context.path_regex, str(context.path_format)) for context in contexts]
        self._known: dict[str, tuple[str, str | None]] = {}
        for _, template in self._routes:
            for layer in layers:
                path = template.replace("{layer}", layer).replace("{model}", layer)
                if "{" not in path:
                    self._known[path] = (template, None if path == template else layer)

    def find(self, path: str) -> tuple[str, str | None]:
        """The route's template, or `unmatched`, and the layer, or None if it does not exist."""
        return self._known.get(path) or self._searched(path)

    def _searched(self, path: str) -> tuple[str, str | None]:
        for pattern, template in self._routes:
            if found := pattern.match(path):
                named = found.groupdict()
                layer = named.get("layer") or named.get("model")
                return template, layer if layer in self._layers else None
        return UNMATCHED, None


def method(name: str) -> str:
    """The HTTP method, or `other`."""
    return name if name in METHODS else "other"


def phases(server_timing: bytes) -> dict[str, float]:
    """How long each phase took, in ms, from the response's `Server-Timing` header."""
    spent = {}
    for entry in server_timing.split(b", "):
        name, _, took_ms = entry.partition(b";dur=")
        if name in PHASES:
            spent[PHASES[name]] = float(took_ms)
    return spent
