"""`LAYER.safetensors`: tensors as `CASE/in.input`; what the cases say is in the metadata."""

from app.codecs import CODECS, SAFETENSORS
from app.operations.vectors import FORMAT
from app.vector_files._set import (
    Files,
    LeftOut,
    VectorSet,
    options_of,
    tensors_of,
    tolerance_of,
)


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One file; the metadata has one member, `response`, which is JSON."""
    tensors = {
        f"{case.name}/{name}": payload
        for case in vectors.cases
        for name, payload in tensors_of(case).items()
    }
    about = {
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
                "tolerance": tolerance_of(case),
            }
            for case in vectors.cases
        ],
    }
    pieces = CODECS[SAFETENSORS].encode({**tensors, **about})
    return {f"{vectors.layer}.safetensors": b"".join(pieces)}, {}
