"""Random option sets through the validator, then torch, in a child process that may not die."""

import random
import subprocess
import sys
from typing import Any

import torch
from pydantic import ValidationError

from app.compute import Engine
from app.errors import RequestError
from app.layers import LAYERS
from tests.conftest import LIMITS, compute

CASES = 2000
ODD = [
    0,
    1,
    2,
    3,
    5,
    7,
    4096,
    4097,
    -1,
    2**31,
    2**62,
    2**63,
    2.0,
    True,
    None,
    "same",
    [],
    [2],
    [[1]],
]


def random_body(rng: random.Random, family: str, rank: int) -> dict[str, Any]:
    """Mostly sensible, now and then anything."""

    def some(low: int, high: int) -> Any:
        if rng.random() < 0.04:
            return rng.choice(ODD)
        if rng.random() < 0.5:
            return rng.randint(low, high)
        return [rng.randint(low, high) for _ in range(rank - 2)]

    shape = [rng.randint(0 if rng.random() < 0.1 else 1, 7) for _ in range(rank)]
    body: dict[str, Any] = {
        "input": torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    }
    if rng.random() < 0.1:
        body["input"] = torch.full(shape, rng.choice([float("nan"), float("inf"), -float("inf")]))
    if rng.random() < 0.7:
        body["grad_output"] = "ones"
    body["layout"] = rng.choice(["channels_first", "channels_first", "channels_last"])
    body["dtype"] = rng.choice(["float32", "float64", "float16", "bfloat16"])
    body["explain"] = rng.random() < 0.1
    if family in ("max_pool", "avg_pool"):
        pairs = [[rng.randint(0, 3), rng.randint(0, 3)] for _ in range(rank - 2)]
        body |= {
            "kernel_size": some(1, 5),
            "padding": rng.choice([some(0, 2), pairs, "same_upper", "same_lower", "valid"]),
            "dilation": some(1, 3),
            "ceil_mode": rng.random() < 0.5,
            "ceil_rule": rng.choice(["drop", "keep"]),
        }
        if rng.random() < 0.6:
            body["stride"] = some(1, 9)
    if family == "max_pool":
        body |= {
            "tie": rng.choice(["first", "split", "all"]),
            "nan": rng.choice(["propagate", "ignore"]),
            "return_indices": rng.random() < 0.5,
            "index_base": rng.choice(["plane", "onnx", "tf"]),
        }
        if body["index_base"] == "onnx":
            body["storage_order"] = rng.choice(["row", "column"])
    elif family == "avg_pool":
        body |= {
            "count_include_pad": rng.random() < 0.5,
            "divisor_override": rng.choice([None, None, 3, -2, 0, 2**40]),
            "overhang_divisor": rng.choice(["inside", "kernel"]),
        }
    elif family == "adaptive_pool":
        body["output_size"] = some(0, 9)
    elif family == "batch_norm":
        body |= {"training": rng.random() < 0.6, "eps": rng.choice([1e-5, 0, 1, -1])}
        body["momentum"] = rng.choice([0.1, 0, 1, None, 2])
        if rng.random() < 0.6:
            channels = shape[-1] if body["layout"] == "channels_last" and rank > 2 else shape[1]
            body |= {"running_mean": [0.0] * channels, "running_var": [1.0] * channels}
    return body


def run_cases() -> None:
    """The child: any exception but a refusal ends it."""
    rng, engine = random.Random(0), Engine("cpu", LIMITS)
    answered = refused = 0
    for _ in range(CASES):
        spec = rng.choice(list(LAYERS.values()))
        body = random_body(rng, spec.family, rng.choice(spec.inputs[0].ranks))
        try:
            compute(engine, spec, body)
            answered += 1
        except (RequestError, ValidationError):
            refused += 1
        except Exception:
            print(spec.name, {k: v for k, v in body.items() if k != "input"}, body["input"].shape)
            raise
    print(answered, refused)


def test_no_request_reaches_torch_that_torch_refuses_or_dies_of() -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            "from tests.test_torch_is_safe import run_cases; run_cases()",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr[-3000:]
    answered, refused = map(int, child.stdout.split())
    assert answered > CASES / 2
    assert refused > CASES / 20
