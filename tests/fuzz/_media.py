"""How schemathesis makes a safetensors body: a file that is well formed, whatever its tensors."""

import json

import numpy as np
import safetensors.numpy
import schemathesis
from hypothesis import strategies as st

from app.codecs import SAFETENSORS
from tests.fuzz._endpoints import ENDPOINTS
from tests.fuzz._seeds import split

SHAPES = st.lists(st.integers(0, 4), max_size=5)
EXAMPLES = [split(one, one.example) for one in ENDPOINTS.values() if SAFETENSORS in one.codecs]
NAMES = st.sampled_from(
    sorted({"grad_output", "expected.output"}.union(*(tensors for tensors, _ in EXAMPLES)))
)
RESTS = st.sampled_from([rest for _, rest in EXAMPLES])
"""What the operations' examples have beside tensors: the objects that nested tensors stand in."""
DTYPES = st.sampled_from(["f2", "f4", "f8", "i8"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "kernel_size": st.integers(1, 3),
        "training": st.booleans(),
        "axis": st.integers(-2, 2),
        "convention": st.sampled_from(["torch", "keras", "onnx", "flax"]),
        "explain": st.booleans(),
    },
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file with a few tensors, and a few options in its metadata."""
    dtype = draw(DTYPES)
    shapes = draw(st.dictionaries(NAMES, SHAPES, min_size=1))
    tensors = {name: np.ones(shape, dtype) for name, shape in shapes.items()}
    return safetensors.numpy.save(tensors, {"request": json.dumps(draw(RESTS) | draw(OPTIONS))})


schemathesis.openapi.media_type("application/vnd.safetensors", files())
