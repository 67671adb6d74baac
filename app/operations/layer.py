"""Computes one layer: output, gradients, statistics, explanation."""

from functools import partial

from app.layers import LayerSpec, Plan, compute_model, tensor_fields
from app.operations._spec import Context, Fields, LayerOperation, Task
from app.operations._validation import validated
from app.schemas.answers import LayerAnswer


class LayerReader:
    """Reads the compute requests of one layer."""

    def __init__(self, context: Context, spec: LayerSpec) -> None:
        self.tensors = tensor_fields(spec)
        self._engine = context.engine
        self._spec = spec
        self._model = compute_model(spec)

    def read(self, fields: Fields) -> Task:
        """Turn the request into a task that runs the layer once."""
        call = validated(self._model, fields)
        plan, estimate = self._engine.plan(self._spec, call)
        return Task(
            estimate,
            partial(self._engine.run, self._spec, call, plan),
            dtype=call.dtype,
            encoding=call.encoding,
            is_brief=not call.explain,
            outputs=partial(_outputs, self._spec, plan),
        )


def _outputs(spec: LayerSpec, plan: Plan) -> list[str]:
    """The names of an answer's tensors, including gradients that could be requested."""
    differentiable = {port.name for port in spec.inputs if port.differentiable}
    inputs = [name for name in plan.inputs if name.partition(".")[0] in differentiable]
    return [*plan.outputs, *(f"gradients.{name}" for name in inputs)]


OPERATION = LayerOperation(
    name="compute",
    summary=lambda spec: spec.summary,
    request=compute_model,
    answer=LayerAnswer,
    example=lambda spec: dict(spec.example),
    reader=LayerReader,
    binary=True,
)
