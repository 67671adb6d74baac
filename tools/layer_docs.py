"""The catalogue page of the docs: each family's formula, options, differences, and an example."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.codecs import json as json_codec
from app.compute import Engine
from app.layers import LAYERS, LayerSpec, compute_model, tensor_fields
from app.schemas.options import CONVENTIONS, LayerOptions
from app.settings import Settings

INTRODUCTION = """# The layers
Generated from the list of layers by `make openapi`.

[surprises.md](surprises.md) lists surprising behaviors of torch, and what Lamina does instead.

In addition to its own options, every layer takes `convention` and `layout`, and the common fields
`grad_output`, `batched`, `dtype`, `compute_dtype`, `encoding` and `explain`. The defaults below are
torch's; a table lists those that depend on the convention. [conventions.md](conventions.md) has all
conventions in one place.

## Accuracy
Sums of up to 1,024 terms are computed in float32; longer sums are computed in float64, or in parts
that are added in float64. Averages, powers, and norms of data with a mean far larger than its
spread are also computed in float64. Half types are computed in float32.

For each layer, "Accuracy" lists an upper bound on the error of each result, before the result is
rounded to the dtype of the answer. u is the unit roundoff of the dtype used in the computation
(2^-24 for float32 and the half types, 2^-53 for float64), n the number of terms in the sum, g the
incoming gradient, w the weight, b the bias, x the input and xhat the normalized input.
`tests/reference` checks these bounds for every layer against NumPy in float64, forward and
backward and in both layouts; `python -m tests.reference.accuracy` prints how much of each bound is
used.
"""


def catalogue() -> str:
    """The page, as Markdown."""
    engine = Engine("cpu", Settings().limits)
    families = itertools.groupby(LAYERS.values(), key=lambda spec: (spec.family, spec.options))
    sections = (_section(engine, list(specs)) for _, specs in families)
    return INTRODUCTION + "".join(itertools.chain.from_iterable(sections))


def _section(engine: Engine, specs: Sequence[LayerSpec]) -> Iterator[str]:
    """Layers that share their options."""
    yield "\n## " + ", ".join(f"`{spec.name}`" for spec in specs) + "\n"
    for spec in specs:
        yield f"- `{spec.name}`: {spec.summary}.\n"
    example = specs[min(1, len(specs) - 1)]
    for formula, same in itertools.groupby(specs, key=lambda spec: spec.formula):
        names = [f"`{spec.name}`" for spec in same]
        of = "" if len(names) == len(specs) else f" of {', '.join(names)}"
        yield f"\nFormula{of}: {formula}\n"
    yield "\nTensors: " + "; ".join(
        f"`{port.name}` {port.axes}{'' if port.required else ', optional'}"
        for port in example.inputs
    )
    yield ".\n"
    own = [name for name in example.options.model_fields if name not in LayerOptions.model_fields]
    if own:
        yield "\n| option | default | description |\n|---|---|---|\n"
    for name in own:
        field = example.options.model_fields[name]
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        meaning = " ".join((field.description or "").split())
        yield f"| `{name}` | {default} | {meaning} |\n"
    yield from _presets(example)
    for bounds, same in itertools.groupby(specs, key=lambda spec: spec.accuracy):
        names = [f"`{spec.name}`" for spec in same]
        of = "" if len(names) == len(specs) else f" of {', '.join(names)}"
        yield f"\nAccuracy{of}:\n"
        yield from _accuracy(bounds)
    yield "\nWhere frameworks differ:\n"
    for difference in example.differences:
        yield f"- {difference}\n"
    yield from _example(engine, example)


def _accuracy(bounds: Mapping[str, str]) -> Iterator[str]:
    """A line per bound, with the results that keep it."""
    for text in dict.fromkeys(bounds.values()):
        names = ", ".join(f"`{name}`" for name, other in bounds.items() if other == text)
        yield f"- {names}: {text}.\n"


def _presets(spec: LayerSpec) -> Iterator[str]:
    """The options whose default depends on the convention."""
    names = list(dict.fromkeys(name for preset in spec.presets.values() for name in preset))
    yield f"\n| default | {' | '.join(CONVENTIONS)} |\n|---|{'---|' * len(CONVENTIONS)}\n"
    for name in names:
        cells = (preset_text(spec, convention, name) for convention in CONVENTIONS)
        yield f"| `{name}` | {' | '.join(cells)} |\n"


def preset_text(spec: LayerSpec, convention: Any, name: str) -> str:
    """An option's default in one convention, in words."""
    preset = spec.presets[convention]
    value = preset.get(name, spec.options.model_fields[name].default)
    if callable(value):
        return "the dtype's machine epsilon"
    if value is None:
        return {"stride": "the kernel size", "num_groups": "refused"}.get(name, "null")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example(engine: Engine, spec: LayerSpec) -> Iterator[str]:
    """A request, and its output to four digits."""
    body = json.dumps(spec.example)
    fields = json_codec.decode(body.encode(), tensor_fields(spec), max_rank=8, max_list=64)
    call = compute_model(spec).model_validate(fields)
    answer = engine.run(spec, call, engine.plan(spec, call)[0])
    output = json.loads(b"".join(json_codec.encode(answer)))[spec.result]
    yield f"\n```\nPOST /v1/layers/{spec.name}\n{body}\n```\n"
    yield f"answers `{spec.result}`: `{_rounded(output)}`\n"


def _rounded(nested: Any) -> str:
    if isinstance(nested, list):
        return "[" + ", ".join(map(_rounded, nested)) + "]"
    return f"{nested:.4g}"
