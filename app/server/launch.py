"""From the flags of the command line to a service that runs."""

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
    """Serve with the settings of the environment and these flags; the exit code."""
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
    """Serve until a signal; the exit code, which `serving` and `supervisor` explain.

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
        supervisor = Supervisor(config, [listener])
        with _shared_metrics():  # removed in the end: from here on, signals only ask for it
            return supervisor.run()
    from app.server.serving import Server  # the parent of workers does without

    prepare(settings.max_connections)
    Server(config).run([listener])
    return 0


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """A folder in which the workers' metrics add up, as prometheus_client asks for."""
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
