"""`lamina serve`: the command behind `make run`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import uvicorn

from app.api import logs
from app.settings import PREFIX, Settings, SettingsError, load_settings

KEEP_ALIVE_S = 75


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve; a setting that makes no sense ends it with one line."""
    parser = argparse.ArgumentParser(prog="lamina", description="Neural-network layers over HTTP")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve over HTTP")
    serve.add_argument("--host", help="address to listen on (LAMINA_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on (LAMINA_PORT)")
    serve.add_argument("--workers", type=int, help="number of processes (LAMINA_WORKERS)")
    flags = vars(parser.parse_args(arguments))
    flags.pop("command")
    try:
        settings = load_settings(**flags)
        _check_device(settings.device)
    except (SettingsError, ValueError) as error:
        print(f"lamina: {error}", file=sys.stderr)
        return 2
    # Workers are processes of their own and read the environment.
    os.environ |= {PREFIX + k.upper(): str(v) for k, v in flags.items() if v is not None}
    with _shared_metrics(settings.workers):
        _serve(settings)
    return 0


@contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """A folder in which the workers' metrics add up, as prometheus_client asks for."""
    if workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="lamina-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _serve(settings: Settings) -> None:
    uvicorn.run(
        "app.server.worker:build",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http="httptools",
        loop="uvloop",
        ws="none",
        log_config=logs.config(settings.log_level),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_grace_ms // 1000,
    )


def _check_device(name: str) -> None:
    if name.startswith("cuda"):
        from app.compute.device import choose_device  # torch is slow to import, and rarely needed

        try:
            choose_device(name)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}DEVICE={name!r}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
