"""A signal during the start: the process ends with 0, whatever it was doing, and leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests._serving import wait_for
from tests.server.stand_in import APP

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
SERVICE = "app.server.cli"


@dataclass
class Starting:
    """A process group that starts; its files are under one folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    def handles(self) -> bool:
        """Whether Python has got as far as to give SIGTERM a handler."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return bool(int(re.findall(r"SigCgt:\s+(\w+)", status)[0], 16) >> signal.SIGTERM - 1 & 1)

    def says(self, what: str, times: int = 1) -> bool:
        return self.log.count(what) >= times

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def workers(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
        return found

    def ends_cleanly(self, sig: int = signal.SIGTERM, *, group: bool = False) -> None:
        """Send the signal, and see that it leaves with 0 and leaves nothing behind."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        (os.killpg if group else os.kill)(self.process.pid, sig)
        code = self.process.wait(120)
        assert code == 0, self.log
        for word in ("Traceback", '"level":"error"', "KeyboardInterrupt"):
            assert word not in self.log
        psutil.wait_procs(children, 60)
        assert not [child for child in children if lives(child)]
        assert [path.name for path in self.folder.iterdir()] == ["log"]


def lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Starting]]:
    begun: list[Starting] = []

    def begin(app: str, workers: int, **environment: str) -> Starting:
        command = [sys.executable, "-m", app, "serve", "--port", "0", "--workers", str(workers)]
        own = {"LAMINA_DRAIN_DELAY_MS": "0", "TMPDIR": str(tmp_path)}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | own | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun.append(Starting(process, tmp_path))
        return begun[0]

    yield begin
    for starting in begun:
        with suppress(ProcessLookupError):
            os.killpg(starting.process.pid, signal.SIGKILL)
        starting.process.wait()


Begin = Callable[..., Starting]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("app", "after_s"),
    [*((APP, after_s) for after_s in (0, 0.1, 0.3, 0.6, 1.0, 1.5)), (SERVICE, 0.6), (SERVICE, 1.5)],
)
def test_at_any_time(begin: Begin, app: str, workers: int, after_s: float) -> None:
    starting = begin(app, workers)
    wait_for(starting.handles)
    time.sleep(after_s)
    starting.ends_cleanly()


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_while_workers_import(begin: Begin, sig: signal.Signals, group: bool) -> None:
    starting = begin(APP, 2, STAND_IN_IMPORT_S="3")
    wait_for(lambda: len(starting.workers()) == 2)
    assert not starting.says("Started server process")
    starting.ends_cleanly(sig, group=group)
    assert not starting.says("Started server process")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_as_soon_as_they_are_ready(begin: Begin, sig: signal.Signals, workers: int) -> None:
    starting = begin(APP, workers)
    wait_for(lambda: starting.says("Application startup complete", workers))
    starting.ends_cleanly(sig, group=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_as_soon_as_the_service_begins_to_load(begin: Begin, workers: int) -> None:
    starting = begin(SERVICE, workers)
    wait_for(lambda: starting.says("Waiting for application startup"))
    starting.ends_cleanly()


def test_the_command_imports_little_before_it_handles_signals() -> None:
    code = """
import sys
import app.server.cli
sys.exit(bool({"uvicorn", "pydantic", "logging", "asyncio", "multiprocessing"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
