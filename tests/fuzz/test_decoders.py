"""The decoders under hostile bytes: the fuzzers' corpus, seeded mutations of it, and their memory.

`decoder_fuzzer.py` finds what no one thought of; here is what it found, each time.
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests._soak import SOAK, rounds
from tests.fuzz._large_inputs import INPUTS, MIB, STATUS
from tests.fuzz._seeds import seeds
from tests.fuzz._targets import TARGETS, feed

HERE = Path(__file__).parent
CORPUS = {
    target: {path.name: path.read_bytes() for path in sorted((HERE / "corpus" / target).iterdir())}
    for target in TARGETS
}
for seeded in ("nested", "operation"):
    CORPUS[seeded] |= seeds()
TOKENS = [
    json.loads(line).encode("latin-1")
    for line in (HERE / "tokens.dict").read_text().splitlines()
    if line.startswith('"')
]
ROOM_BYTES = 64 * MIB
FUZZING_S = 300


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_is_taken_or_refused(target: str) -> None:
    taken = {name for name, data in CORPUS[target].items() if feed(target, data)}
    assert all(name in taken for name in CORPUS[target] if name.startswith("good"))
    assert not any(name in taken for name in CORPUS[target] if name.startswith("refused"))


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_are_taken_or_refused(target: str) -> None:
    rng, seeds = random.Random(target), list(CORPUS[target].values())
    for number in range(rounds(8_000, 400_000)):
        data = mutated(rng, seeds)
        try:
            feed(target, data)
        except Exception as error:
            pytest.fail(f"number {number}, {data!r}: {error!r}")


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with a few pieces changed, put in, taken out, repeated or taken from another."""
    data = bytearray(rng.choice(seeds)) or bytearray(1)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 40)))
        match rng.randrange(5):
            case 0:
                data[start:end] = rng.randbytes(end - start)
            case 1:
                data[start:end] = rng.choice(TOKENS)
            case 2:
                data[start:end] = data[start:end] * rng.randint(0, 3)
            case 3:
                other = rng.choice(seeds)
                cut = rng.randrange(len(other) + 1)
                data[start:end] = other[cut : cut + rng.randint(0, 60)]
            case 4:
                data[start:end] = b"%d" % rng.choice((0, -1, 2**31, 2**63, 2**64, 10**30))
    return bytes(data)


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", INPUTS)
def test_memory_is_in_proportion_to_the_input(name: str, tmp_path: Path) -> None:
    _, make, factor = INPUTS[name]
    (file := tmp_path / "input").write_bytes(make(rounds(8, 32) * MIB))
    child = [sys.executable, "-m", "tests.fuzz._large_inputs", name, str(file)]
    grown = int(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
    size = file.stat().st_size
    assert grown <= factor * size + ROOM_BYTES, f"{grown / size:.1f} times the input"


@pytest.mark.skipif(not SOAK, reason="runs for half an hour with SOAK=1")
@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    fuzzer = [sys.executable, "-m", "tests.fuzz.decoder_fuzzer", target, str(tmp_path)]
    flags = [
        f"-max_total_time={FUZZING_S}",
        "-max_len=4096",
        "-timeout=5",
        "-rss_limit_mb=0",  # atheris itself keeps some; the harness bounds each input
        f"-dict={HERE / 'tokens.dict'}",
        f"-artifact_prefix={tmp_path}/",
    ]
    found = subprocess.run([*fuzzer, *flags], stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 0, found.stderr[-4000:]
