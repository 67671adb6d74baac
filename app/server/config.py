"""uvicorn's configuration, made from the settings."""

import math

import uvicorn

from app.api import logs
from app.settings import Settings

HEALTH_CHECK_S = 60
"""Longest silence of a worker: a call into torch may hold the interpreter for seconds."""


class ServingConfig(uvicorn.Config):
    """Carries the settings along; it is pickled on its way to the workers.

    Names what is heavy by its path, so that the parent of workers does not import it.
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
