"""uvicorn's configuration, derived from the settings."""

import logging
import math
import socket
from functools import partial
from typing import Any

import uvicorn

from app.observability import logs
from app.settings import Settings, SettingsError

logger = logging.getLogger("uvicorn.error")

HEALTH_CHECK_S = 60
"""How long a worker may stay silent: a call into torch can hold the GIL for seconds."""


class ServingConfig(uvicorn.Config):
    """uvicorn's configuration together with the settings, pickled to be sent to workers.

    Heavy modules are named by import path, so that the parent process does not load them.
    """

    def __init__(self, settings: Settings, app: str) -> None:
        self.settings = settings
        super().__init__(
            app,
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http="app.server.protocol:Protocol",
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=logs.config(settings.log_level),
            log_level=settings.log_level,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=math.ceil(settings.keep_alive_timeout_ms / 1000),
            timeout_worker_healthcheck=HEALTH_CHECK_S,
        )

    def load_app(self) -> Any:
        """The app factory, bound to the settings."""
        return partial(super().load_app(), self.settings)

    def bind_socket(self) -> socket.socket:
        """Bind a socket to the configured address, without listening yet.

        Raises:
            SettingsError: the address is not available on this host, or the port is in use.

        """
        try:
            family, address = _resolved(self.settings.host, self.settings.port)
            listener = socket.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except (OSError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "invalid host name"
            place = self._place(self.settings.port)
            raise SettingsError(
                f"cannot listen on {place} (LAMINA_HOST, LAMINA_PORT): {reason}"
            ) from None
        listener.set_inheritable(True)
        return listener

    def tell_where(self, listener: socket.socket) -> None:
        """Log the address that the service listens on, with the port actually bound."""
        place = self._place(listener.getsockname()[1])
        logger.info("Uvicorn running on http://%s (Press CTRL+C to quit)", place)

    def _place(self, port: int) -> str:
        host = self.settings.host
        return f"[{host}]:{port}" if host.count(":") > 1 else f"{host}:{port}"


def _resolved(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """Resolve a host to its address family and address, preferring IPv4."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address
