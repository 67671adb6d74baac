"""Starts the service from command-line flags and the environment."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from app.server.config import ServingConfig
from app.server.process import prepare
from app.server.supervisor import Supervisor
from app.settings import PREFIX, Settings, SettingsError, load_settings


def launch(flags: Mapping[str, object], app: str) -> int:
    """Serve with settings from the environment and these flags; return the exit code."""
    try:
        settings = load_settings(**flags)
        _check_device(settings.device)
    except ValueError as error:
        return _refuse(error)
    try:
        return serve(settings, app)
    except SettingsError as error:
        return _refuse(error)


def _refuse(error: ValueError) -> int:
    print(f"lamina: {error}", file=sys.stderr)
    return 2


def serve(settings: Settings, app: str) -> int:
    """Serve until a signal; return the exit code, documented in `serving` and `supervisor`.

    Raises:
        SettingsError: the configured address cannot be bound.

    """
    # Read when torch is loaded. By default, its threads spin while they wait for one another, on
    # cores that the event loop needs: on a busy machine, for most of a request's time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config = ServingConfig(settings, app)
    listener = config.bind_socket()
    if settings.workers > 1:
        config.tell_where(listener)
        supervisor = Supervisor(config, [listener])
        with _shared_metrics():  # cleaned up on exit: signals now only request shutdown
            return supervisor.run()
    from app.server.serving import Server  # not needed in the parent of workers

    prepare(settings.max_connections)
    Server(config).run([listener])
    return 0


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """The directory that prometheus_client needs to aggregate the workers' metrics."""
    with TemporaryDirectory(prefix="lamina-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _check_device(name: str) -> None:
    if name.startswith("cuda"):
        from app.compute.device import choose_device  # torch is slow to import, and rarely needed

        try:
            choose_device(name)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}DEVICE={name!r}: {error}") from None
