"""`LAYER.npz`: the same tensors as `CASE/in.input.npy`; bfloat16 as float32.

Written here and not by `numpy.savez`, which puts the time of day into the file.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

import io
import zipfile

from app.schemas.tensors import TensorPayload
from app.vector_files._set import Files, LeftOut, VectorSet, tensors_of, widened

MAGIC = b"\x93NUMPY\x01\x00"
ALIGNMENT = 64
OLDEST = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip file can have."""


def write(vectors: VectorSet) -> tuple[Files, LeftOut]:
    """One file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for case in vectors.cases:
            for name, payload in tensors_of(case).items():
                entry = zipfile.ZipInfo(f"{case.name}/{name}.npy", OLDEST)
                archive.writestr(entry, _npy(payload))
    return {f"{vectors.layer}.npz": whole.getvalue()}, {}


def _npy(payload: TensorPayload) -> bytes:
    array = widened(payload)
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    text = repr(described).encode()
    room = -(len(MAGIC) + 2 + len(text) + 1) % ALIGNMENT
    text += b" " * room + b"\n"
    return MAGIC + len(text).to_bytes(2, "little") + text + array.tobytes()
