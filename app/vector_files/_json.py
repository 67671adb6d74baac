"""`LAYER.json`: all cases, each tensor as shape, dtype and flat data."""

from app.codecs import CODECS, JSON
from app.operations.vectors import FORMAT
from app.schemas.tensors import TensorPayload
from app.vector_files._set import (
    Files,
    LeftOut,
    VectorSet,
    options_of,
    tensors_of,
    tolerance_of,
)


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One file."""
    whole = {
        "layer": vectors.layer,
        "seed": vectors.seed,
        "format": FORMAT,
        "dtype": vectors.dtype,
        "cases": [
            {
                "name": case.name,
                "why": case.why,
                "tags": case.tags,
                "options": options_of(case),
                "tensors": {name: _card(one) for name, one in tensors_of(case).items()},
                "tolerance": tolerance_of(case),
            }
            for case in vectors.cases
        ],
    }
    pieces = CODECS[JSON].encode(whole, encoding="nested")
    return {f"{vectors.layer}.json": b"".join(pieces) + b"\n"}, {}


def _card(payload: TensorPayload) -> dict[str, object]:
    count = payload.data.nbytes // payload.data.itemsize
    data = TensorPayload(payload.dtype, (count,), payload.data)
    return {"shape": payload.shape, "dtype": payload.dtype, "data": data}
