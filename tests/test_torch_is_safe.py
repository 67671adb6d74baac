"""Random option sets through the validator, then torch, in a child process that may not die, nor
take much longer than estimated.
"""

import random
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from app.compute import Engine
from app.errors import RequestError
from app.layers import LAYERS, LayerSpec, Plan
from app.schemas.options import CONVENTIONS
from tests._soak import HANGS_S, rounds
from tests.conftest import LIMITS, call_of

CASES = rounds(2_000, 10_000)
MOST_OVER_MS = rounds(2_000, 50)
"""Processor time, which others on the machine make longer: the short run finds what takes seconds.
"""
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


def random_body(rng: random.Random, spec: LayerSpec) -> dict[str, Any]:
    """Mostly sensible, now and then anything."""
    family, rank = spec.family, rng.choice([r for r in spec.inputs[0].ranks if r < 6])

    def some(low: int, high: int) -> Any:
        if rng.random() < 0.04:
            return rng.choice(ODD)
        if rng.random() < 0.5:
            return rng.randint(low, high)
        return [rng.randint(low, high) for _ in range(rank - 2)]

    def tensor(*shape: int) -> torch.Tensor:
        if rng.random() < 0.1:
            return torch.full(shape, rng.choice([float("nan"), float("inf"), -float("inf")]))
        return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))

    def shaped(rank: int) -> list[int]:
        return [rng.randint(0 if rng.random() < 0.1 else 1, 7) for _ in range(rank)]

    shape = shaped(rank)
    body: dict[str, Any] = {
        "convention": rng.choice(CONVENTIONS),
        "layout": rng.choice(["channels_first", "channels_first", "channels_last"]),
        "dtype": rng.choice(["float32", "float64", "float16", "bfloat16"]),
        "explain": rng.random() < 0.1,
    }
    channels = 1
    if rank > 1:
        channels = shape[-1] if body["layout"] == "channels_last" and rank > 2 else shape[1]
    if spec.many:
        shapes = [[n, *shape[1:]] for n in (shape[0], rng.randint(0, 3))]
        body["inputs"] = [tensor(*each) for each in shapes]
    else:
        body["input"] = tensor(*shape)
    if rng.random() < 0.7:
        body[spec.gradient] = "ones"
    if family in ("max_pool", "avg_pool", "lp_pool", "conv", "max_unpool"):
        pairs = [[rng.randint(0, 3), rng.randint(0, 3)] for _ in range(rank - 2)]
        body["padding"] = rng.choice([some(0, 2), pairs, "same_upper", "same_lower", "valid"])
        if rng.random() < 0.6:
            body["stride"] = some(1, 9)
    if family in ("max_pool", "avg_pool", "lp_pool"):
        body |= {
            "ceil_mode": rng.random() < 0.5,
            "ceil_rule": rng.choice(["drop", "keep"]),
        }
    if family in ("max_pool", "avg_pool", "lp_pool", "max_unpool"):
        body["kernel_size"] = some(1, 5)
    if family in ("max_pool", "avg_pool", "lp_pool", "conv"):
        body["dilation"] = some(1, 3)
    if family == "lp_pool":
        body["norm_type"] = rng.choice([1, 2, 2.5, 3, 0, -1, 1024])
        body |= {"lp_abs": rng.random() < 0.5, "lp_partial": rng.choice(["scaled", "sum"])}
    if family in ("max_pool", "max_unpool"):
        body["index_base"] = rng.choice(["plane", "onnx", "tf"])
        if body["index_base"] == "onnx":
            body["storage_order"] = rng.choice(["row", "column"])
    if family == "max_pool":
        body |= {
            "tie": rng.choice(["first", "split", "all"]),
            "nan": rng.choice(["propagate", "ignore"]),
            "return_indices": rng.random() < 0.5,
        }
    elif family == "max_unpool":
        high = rng.choice([1, 4, 2**40])
        body["padding"] = rng.choice([0, 0, 0, some(0, 2), pairs])
        body["indices"] = torch.randint(-1 if rng.random() < 0.1 else 0, high, shape)
        body["index_space"] = rng.choice(["output", "default"])
        if rng.random() < 0.4:
            body["output_size"] = some(1, 40)
    elif family == "avg_pool":
        body |= {
            "count_include_pad": rng.random() < 0.5,
            "divisor_override": rng.choice([None, None, 3, -2, 0, 2**40]),
            "overhang_divisor": rng.choice(["inside", "kernel"]),
        }
    elif family == "adaptive_pool":
        body["output_size"] = some(0, 9)
    elif family == "conv":
        groups = rng.choice([1, 1, 2])
        own = max(1, channels // groups) if rng.random() < 0.95 else rng.randint(0, 4)
        kernel = [rng.randint(1, 3) for _ in shape[2:]]
        body |= {"groups": groups, "weight": tensor(groups * rng.randint(1, 3), own, *kernel)}
        if rng.random() < 0.2:
            body["bias"] = tensor(rng.randint(1, 4))
    elif family == "group_norm":
        body["eps"] = rng.choice([1e-5, 0, 1, -1, 1e-50])
        if spec.name == "group_norm":
            body["num_groups"] = rng.choice([None, 1, 1, channels, channels, 2, 0])
    elif family == "layer_norm":
        body |= rng.choice([{"axis": rng.randint(-rank - 1, rank)}, {"normalized_shape": shape},
                            {"normalized_shape": shape[-1:]}, {}])  # fmt: skip
    elif "batch_norm" in family:
        body |= {"training": rng.random() < 0.6, "eps": rng.choice([1e-5, 0, 1, -1])}
        body["momentum"] = rng.choice([0.1, 0, 1, None, 2])
        if rng.random() < 0.6:
            body |= {"running_mean": [0.0] * channels, "running_var": [1.0] * channels}
    return body


def run_cases(cases: int, seed: int = 0) -> None:
    """The child: any exception but a refusal ends it, and any run longer than it may take."""
    torch.set_num_threads(1)  # the estimate is of all threads' work
    rng, engine = random.Random(seed), Engine("cpu", LIMITS)
    answered = refused = 0
    for _ in range(cases):
        spec = rng.choice(list(LAYERS.values()))
        body = random_body(rng, spec)
        try:
            call = call_of(spec, body)
            plan = engine.plan(spec, call)
            most_ms = 2 * plan.estimated_ms + MOST_OVER_MS
            spent_ms = [_run_ms(engine, spec, call, plan)]
            while min(spent_ms) > most_ms and len(spent_ms) < 4:
                spent_ms.append(_run_ms(engine, spec, call, plan))
            assert min(spent_ms) <= most_ms, f"{spent_ms} ms, expected at most {most_ms:.0f}"
            answered += 1
        except (RequestError, ValidationError):
            refused += 1
        except Exception:
            print(spec.name, {k: getattr(v, "shape", v) for k, v in body.items()})
            raise
    print(answered, refused)


def _run_ms(engine: Engine, spec: LayerSpec, call: Any, plan: Plan) -> float:
    """Computing time, without what others on the machine take."""
    begun = time.process_time()
    engine.run(spec, call, plan)
    return (time.process_time() - begun) * 1e3


@pytest.mark.slow
@pytest.mark.timeout(HANGS_S)
def test_no_request_reaches_torch_that_torch_refuses_or_dies_of() -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"from tests.test_torch_is_safe import run_cases; run_cases({CASES})",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
    )
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr[-3000:]
    answered, refused = map(int, child.stdout.split())
    assert answered > CASES / 2
    assert refused > CASES / 20
