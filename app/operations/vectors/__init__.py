"""Golden vectors: seeded requests of a layer that break ports, with their results and tolerances.

`_families` lists the scenarios of each layer, `_cases` makes cases of them.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from app.compute import Answer, Engine, Estimate
from app.layers import LayerSpec
from app.operations._spec import Context, Fields, LayerOperation, Task
from app.operations._validation import validated
from app.operations.vectors._cases import Case, cases
from app.operations.vectors._scenario import Setting
from app.scheduling import Steps
from app.schemas.tensors import Field
from app.schemas.vectors import VectorsAnswer, vectors_model

FORMAT = 1
"""Version of a set's structure."""
MAX_BODY_BYTES = 64 * 1024
CASE_MS, CASE_BYTES, CASE_NUMBERS = 25.0, 128 * 1024, 1200
"""What a case costs at most: time, memory, and numbers in request and response."""


class VectorsReader:
    """Reads the requests of one layer's sets, which hold no tensors."""

    def __init__(self, context: Context, spec: LayerSpec) -> None:
        self.tensors: dict[str, Field] = {}
        # Sets are the same everywhere, so they are not computed on an accelerator.
        is_cpu = context.engine.device.type == "cpu"
        self._engine = context.engine if is_cpu else Engine("cpu", context.engine.limits)
        self._spec = spec
        self._model = request_model(spec)

    def read(self, fields: Fields) -> Task:
        """Turn the request into a task that builds the cases one after the other."""
        call: Any = validated(self._model, fields)
        setting = Setting(self._spec, call.seed, call.dtype, call.convention)

        def work() -> Steps[Answer]:
            answer: Answer = {"layer": self._spec.name, "seed": call.seed, "format": FORMAT}
            for index, case in enumerate(cases(self._engine, setting, call.count)):
                answer |= flat(case, f"cases.{index}.")
                yield
            return answer

        most = call.count
        return Task(
            Estimate(CASE_MS * most, CASE_BYTES * most, CASE_NUMBERS * most),
            work,
            dtype=call.dtype,
            encoding="flat",
            is_brief=False,
        )


def request_model(spec: LayerSpec) -> type[BaseModel]:
    """The model of a request for a set of this layer."""
    return vectors_model(spec.name, spec.dtypes)


def flat(case: Case, prefix: str = "") -> Answer:
    """A case as members of an answer, by dotted name."""
    about = {"name": case.name, "why": case.why, "tags": case.tags}
    parts = {
        **about,
        **{f"request.{name}": value for name, value in case.request.items()},
        **{f"response.{name}": value for name, value in case.response.items()},
        "tolerance": {name: one._asdict() for name, one in case.tolerance.items()},
    }
    return {f"{prefix}{name}": value for name, value in parts.items()}


def build(engine: Engine, spec: LayerSpec, **fields: Any) -> Iterator[Case]:
    """The cases of a set, made one by one, on this engine.

    Raises:
        InvalidRequest: as for the operation.

    """
    call: Any = validated(request_model(spec), fields)
    return cases(engine, Setting(spec, call.seed, call.dtype, call.convention), call.count)


OPERATION = LayerOperation(
    name="vectors",
    summary=lambda spec: f"Golden test vectors of {spec.name}, with gradients and tolerances",
    request=request_model,
    answer=VectorsAnswer,
    example=lambda spec: {"seed": 0, "count": 2},  # noqa: ARG005
    reader=VectorsReader,
    binary=True,
    max_body_bytes=MAX_BODY_BYTES,
)

__all__ = ["FORMAT", "OPERATION", "Case", "build", "flat"]
