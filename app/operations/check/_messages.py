"""A diagnosis in words: what the client did, who does it that way, and what else it may be."""

from collections.abc import Sequence
from typing import Any

from app.layers import LayerSpec
from app.operations.check._hypotheses import Hypothesis, default_of
from app.operations.check._options import BY_NAME, spelled
from app.schemas.options import CONVENTIONS

NAMES = {"torch": "torch", "keras": "Keras", "onnx": "ONNX", "flax": "Flax"}
MOST_OTHERS = 3
PAGE = "docs/check.md"


def message(
    spec: LayerSpec, dtype: str, used: Any, hypothesis: Hypothesis, others: Sequence[Hypothesis]
) -> str:
    """One sentence on what the client did; and one on the hypotheses that give the same numbers.

    `used` are the request's options.
    """
    parts = [
        _convention(value) if name == "convention" else _option(spec, dtype, used, name, value)
        for name, value in hypothesis.options.items()
    ]
    fault = hypothesis.fault
    if fault is not None:
        parts.insert(0, fault.message.rstrip("."))
    text = ". Also: ".join([parts[0], *(_lowered(part) for part in parts[1:])]) + "."
    return text + _apart(hypothesis, others)


def _convention(name: str) -> str:
    return f"Your numbers are those of {NAMES[name]}'s defaults"


def _option(spec: LayerSpec, dtype: str, used: Any, name: str, value: Any) -> str:
    clause = BY_NAME[name].clause(value)
    who = [NAMES[c] for c in CONVENTIONS if default_of(spec, c, name, dtype) == value]
    if 0 < len(who) < len(CONVENTIONS):
        clause += f", as in {_listed(who)} by default"
    current = getattr(used, name)
    if name == "axis":
        current = len(used.normalized_shape)
        return f"{clause}; the request's last {_axes(current)} normalized"
    return f"{clause}; the request has `{name}: {spelled(current)}`"


def _axes(count: int) -> str:
    return "axis is" if count == 1 else f"{count} axes are"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _apart(hypothesis: Hypothesis, others: Sequence[Hypothesis]) -> str:
    if not others:
        return ""
    named = [f"`{other.title}`" for other in others[:MOST_OTHERS]]
    if len(others) > MOST_OTHERS:
        named.append(f"{len(others) - MOST_OTHERS} more")
    verb = "gives" if len(others) == 1 else "give"
    return (
        f" On this input, {_listed(named)} {verb} the same; {_input(hypothesis, others[0])} "
        f"would tell them apart."
    )


def _input(hypothesis: Hypothesis, other: Hypothesis) -> str:
    """An input on which two hypotheses differ."""
    own = [n for n, v in hypothesis.options.items() if other.options.get(n, other) != v]
    theirs = [n for n, v in other.options.items() if hypothesis.options.get(n, other) != v]
    for name in (*own, *theirs):
        if name in BY_NAME:
            return BY_NAME[name].apart
    return "an input of another size and other values"


def more(hypothesis: Hypothesis) -> str:
    """The place in the documentation that tells more."""
    fault = hypothesis.fault
    anchor = next(iter(hypothesis.options)) if fault is None else fault.name
    return f"{PAGE}#{anchor}"
