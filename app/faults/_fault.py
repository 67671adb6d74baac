"""What a fault is: a mistake that ports of a layer make, emulated to explain a client's numbers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.layers import LayerSpec, Plan, Tensors
from app.schemas.options import LayerOptions
from app.schemas.tensors import Shapes

GRADIENTS = frozenset({"gradients"})
"""The `changes` of a fault that leaves every other result right."""
Run = Callable[[Tensors, Plan], Tensors]


def always(plan: Plan) -> bool:
    """The fault can change the result of any request."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake, for the layers of `families`.

    `layer(spec)` is the layer as the client built it: the spec with another `run`, and where
    necessary another `plan`, which may raise `InvalidRequest` if the client could not have run the
    request. It is `spec` itself if that layer of the family cannot have the fault. Its `run`
    emulates everything that the client would have got: outputs, indices and statistics, and,
    through autograd, the gradients of every input.
    `applies(plan)` says whether the fault can change anything for a planned request.
    `message` is one sentence for the client's author. `source` is the URL of a report, or empty.
    With `in_dtype`, the fault is about rounding, and `run` takes tensors in the request's own
    dtype, half types included, instead of float64; with `only_halves`, in half types alone.
    `changes` holds the first words of the results' names that can differ; if empty, any can.

    Faults of one name are one mistake, made in more than one way.
    """

    name: str
    families: frozenset[str]
    message: str
    source: str = ""
    layer: Callable[[LayerSpec], LayerSpec]
    applies: Callable[[Plan], bool] = always
    in_dtype: bool = False
    only_halves: bool = False
    changes: frozenset[str] = frozenset()

    def can_change(self, name: str) -> bool:
        """Whether a result of this name can differ: `output`, `gradients.input`."""
        return not self.changes or name.partition(".")[0] in self.changes


def rebuilt(
    spec: LayerSpec,
    run: Run,
    *,
    room: Callable[[Plan], int] = lambda plan: 0,
    calls: Callable[[Plan], int] = lambda plan: 0,
) -> LayerSpec:
    """The layer with another `run`.

    `room(plan)` counts the elements of working memory that it needs in addition to the layer's own,
    and as many again for gradients. `calls(plan)` counts steps that take time whatever their size.
    """

    def plan(shapes: Shapes, options: LayerOptions) -> Plan:
        own = spec.plan(shapes, options)
        elements = room(own)
        return replace(
            own,
            workspace=own.workspace + elements,
            gradient_workspace=own.gradient_workspace + elements,
            overhead_ns=own.overhead_ns + CALL_NS * calls(own),
        )

    return replace(spec, plan=plan, run=run)


CALL_NS = 20_000
"""Time of one step on a few elements."""
