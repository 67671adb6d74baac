"""Writes the golden safetensors files beside it: requests that give their input back, one answer.

`python -m tests.golden.make`. The library writes the requests where it can; what its writer never
does but the format allows is framed by hand. `answer` is what the service's own writer gives.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save

from tests._binary import DTYPES, bits, saved
from tests.hostile.make import entry, framed

PAIR = torch.tensor([1.0, 2.0])
RAW = bits(PAIR)[2]


def specials(dtype: str) -> torch.Tensor:
    """The numbers that a detour through another type or through text would lose."""
    kind = DTYPES[dtype]
    if kind.is_floating_point:
        info, inf = torch.finfo(kind), float("inf")
        least = info.smallest_normal * info.eps
        values = [0.0, -0.0, 1.0, least, -least, least * 3, info.smallest_normal, info.max,
                  info.min, inf, -inf, 1 + info.eps]  # fmt: skip
        tensor = torch.tensor(values, dtype=torch.float64).to(kind)
        assert tensor[3] > 0, "the subnormal is there"
        return tensor.view(1, 1, 3, 4)
    bounds = torch.iinfo(kind)
    numbers = [0, 1, 2, bounds.min, bounds.min + 1, bounds.max, bounds.max - 1, 77]
    return torch.tensor(numbers, dtype=kind).view(1, 1, 2, 4)


def answer() -> bytes:
    """Three ones of each dtype, wider elements first, and what is left without the tensors."""
    rest = '{"layer":"any","parts":{"text":"\u00fc"},"none":null,"empty":{},"list":[1,2]}'
    codes = {"float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16",
             "bfloat16": "BF16", "int8": "I8", "uint8": "U8"}  # fmt: skip
    header: dict[str, object] = {"__metadata__": {"response": rest}}
    data = b""
    for name, code in codes.items():
        raw = bits(torch.ones(3, dtype=DTYPES[name]))[2]
        header[f"parts.{name}"] = entry([3], [len(data), len(data) + len(raw)], code)
        data += raw
    header["outputs.0"] = entry([0, 2], [len(data)] * 2, "U8")
    text = json.dumps(header, separators=(",", ":")).encode()
    return framed(text + b" " * (-len(text) % 8), data)


FILES = {
    **{name: saved({"input": specials(name)}, kernel_size=1, encoding="base64") for name in DTYPES},
    "no-metadata": save({"input": PAIR}),
    "no-elements": save({"input": torch.ones(2, 0, 3)}),
    "one-number": save({"input": torch.tensor(2.5)}),
    "foreign-metadata": framed(
        {"__metadata__": {"note": '\u00fc "}{', "format": "pt"}, "input": entry()}, RAW
    ),
    "names-against-their-offsets": framed(
        {
            "__metadata__": {"request": '{"axis": -1, "eps": 1e-30}'},
            "input": entry([2, 2], [16, 32]),
            "weight": entry([2], [8, 16]),
            "bias": entry([2], [0, 8]),
        },
        bits(torch.tensor([0.0, 0, 1, 1, -1, 1, 1, -1]))[2],
    ),
    "odd-header-length": framed(json.dumps({"input": entry()}).ljust(75).encode(), RAW),
    "answer": answer(),
}


if __name__ == "__main__":
    for name, content in FILES.items():
        (Path(__file__).parent / f"{name}.safetensors").write_bytes(content)
