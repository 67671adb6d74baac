"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.decoder_fuzzer json -runs=1000000`.

What follows the target's name is libFuzzer's. It starts from `corpus/TARGET`; new inputs go to the
first directory that is named. A finding stays as `crash-*`: add it to the corpus, with a name that
says what it does.
"""

import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["app"]):
    from tests.fuzz._seeds import seeds
    from tests.fuzz._targets import TARGETS, feed

CORPUS = Path(__file__).parent / "corpus"
ROOM_BYTES = 64 << 20


class Harness:
    """Feeds a target; an input may take twice its own size and ROOM_BYTES of memory."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __call__(self, data: bytes) -> None:
        before = _peak_bytes()
        feed(self._target, data)
        grown = _peak_bytes() - before
        assert grown <= 2 * len(data) + ROOM_BYTES, f"{grown} bytes for {len(data)}"


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run until libFuzzer ends the process."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}")
    target = sys.argv.pop(1)
    with TemporaryDirectory() as own:
        for name, data in seeds().items() if target in ("nested", "operation") else ():
            (Path(own) / name).write_bytes(data)
        atheris.Setup([*sys.argv, str(CORPUS / target), own], Harness(target))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
