"""What a fault is: a mistake that ports of a layer make, emulated to explain a client's numbers."""

from collections.abc import Callable
from dataclasses import dataclass

from app.layers import LayerSpec, Plan


def always(plan: Plan) -> bool:
    """The fault can change the result of any request."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake, for the layers of `families`.

    `layer(spec)` is the layer as the client built it: the spec with another `run`, and where
    necessary another `plan`. Its `run` emulates everything that the client would have got: outputs,
    indices and statistics, and, through autograd, the gradients of every input.
    `applies(plan)` says whether the fault can change anything for a planned request.
    `message` is one sentence for the client's author. `source` is the URL of a report, or empty.
    With `in_dtype`, the fault is about rounding, and is emulated in the client's own dtype instead
    of float64.
    """

    name: str
    families: frozenset[str]
    message: str
    source: str = ""
    layer: Callable[[LayerSpec], LayerSpec]
    applies: Callable[[Plan], bool] = always
    in_dtype: bool = False
