"""Open Inference Protocol messages: a JSON object, followed by the tensors' bytes in order.

`decode` and `encode` work on the types in `_messages`; the names of tensors and the meaning of
parameters are left to `api/v2`. Source: the protocol's "binary tensor data" extension.
"""

from app.codecs.open_inference._messages import NAMES, Inference, Output
from app.codecs.open_inference._reader import decode
from app.codecs.open_inference._writer import encode

__all__ = ["NAMES", "Inference", "Output", "decode", "encode"]
