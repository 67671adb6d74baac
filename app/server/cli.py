"""`lamina serve`: the command behind `make run`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from app.server.config import ServingConfig
from app.server.process import prepare
from app.server.supervisor import Supervisor
from app.settings import PREFIX, Settings, SettingsError, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve; a setting that makes no sense ends it with one line."""
    parser = argparse.ArgumentParser(prog="lamina", description="Neural-network layers over HTTP")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve over HTTP")
    command.add_argument("--host", help="address to listen on (LAMINA_HOST)")
    command.add_argument("--port", type=int, help="port to listen on (LAMINA_PORT)")
    command.add_argument("--workers", type=int, help="number of processes (LAMINA_WORKERS)")
    flags = vars(parser.parse_args(arguments))
    flags.pop("command")
    try:
        settings = load_settings(**flags)
        _check_device(settings.device)
    except ValueError as error:
        return _refuse(error)
    try:
        with _shared_metrics(settings.workers):
            return serve(settings)
    except SettingsError as error:
        return _refuse(error)


def _refuse(error: ValueError) -> int:
    print(f"lamina: {error}", file=sys.stderr)
    return 2


@contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """A folder in which the workers' metrics add up, as prometheus_client asks for."""
    if workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="lamina-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def serve(settings: Settings, app: str = "app.server.worker:build") -> int:
    """Serve until a signal; the exit code, which `serving` and `supervisor` explain.

    `app` is the path of what builds the app, in each serving process.

    Raises:
        SettingsError: nobody can listen there.

    """
    # Read when torch is loaded. Its threads would wait for one another by turning in circles, on
    # the cores that the event loop needs: where these are busy, for most of a request's time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config = ServingConfig(settings, app)
    listener = config.bind_socket()
    if settings.workers > 1:
        config.tell_where(listener)
        return Supervisor(config, [listener]).run()
    from app.server.serving import Server  # the parent of workers does without

    prepare(settings.max_connections)
    Server(config).run([listener])
    return 0


def _check_device(name: str) -> None:
    if name.startswith("cuda"):
        from app.compute.device import choose_device  # torch is slow to import, and rarely needed

        try:
            choose_device(name)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}DEVICE={name!r}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
