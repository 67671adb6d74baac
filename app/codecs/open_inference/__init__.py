"""The Open Inference Protocol's tensor messages: a JSON object, then the tensors' bytes in order.

`decode` and `encode` are the codecs' two verbs over `Inference` and `Result`; names of tensors and
meanings of parameters are `api/v2`'s. Source: the protocol's "binary tensor data" extension.
"""

from app.codecs.open_inference._messages import NAMES, Inference, Output
from app.codecs.open_inference._reader import decode
from app.codecs.open_inference._writer import encode

__all__ = ["NAMES", "Inference", "Output", "decode", "encode"]
