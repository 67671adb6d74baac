"""`lamina check`: holds a file of a client's own results against the reference, in this process."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.api.problems import refusal
from app.codecs import CODECS, JSON, SAFETENSORS
from app.compute import Engine
from app.compute.device import set_threads, thread_count
from app.errors import InvalidRequest, LaminaError, RequestError
from app.layers import LAYERS
from app.operations import LAYER_OPERATIONS, Context, nearest
from app.scheduling import finished
from app.settings import load_settings

MATCH, NO_MATCH, INVALID = 0, 1, 2
"""Exit codes."""
PROGRESS_S = 0.2
"""How often a terminal shows how far the search is."""


def check(file: str, *, as_json: bool) -> int:
    """Check a file, or stdin for `-`; print what was found, and return the exit code."""
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        answer = checked(bytearray(body), _progress() if sys.stderr.isatty() else lambda: None)
    except (OSError, ValueError) as error:
        print(f"lamina: {error}", file=sys.stderr)
        return INVALID
    except LaminaError as error:
        print(f"lamina: {error}", file=sys.stderr)
        for found in error.errors if isinstance(error, RequestError) else ():
            print(f"  {found.pointer}: {found.code}", file=sys.stderr)
        return INVALID
    print(json.dumps(answer, indent=2) if as_json else described(answer))
    return MATCH if answer["match"] else NO_MATCH


def checked(body: bytearray, step: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """The answer to a check with its `layer`, as JSON or as safetensors; `step` is called between
    the steps of the search.

    Raises:
        RequestError: the file is not a valid check.

    """
    settings = load_settings()
    codec = CODECS[JSON if body.lstrip()[:1] == b"{" else SAFETENSORS]
    layer = _layer_of(body)
    operation = next(one for one in LAYER_OPERATIONS if one.name == "check")
    set_threads(thread_count(settings.threads, 1))
    engine = Engine(settings.device, settings.limits)
    reader = operation.reader(Context(engine, LAYERS, refusal), LAYERS[layer])
    limits = settings.limits.requests
    fields = codec.decode(
        body, reader.tensors, max_rank=limits.max_rank, max_list=limits.max_replicas
    )
    fields.pop("layer", None)
    task = reader.read(fields)
    return dict(finished(task.work(), step))


def _layer_of(body: bytearray) -> str:
    """The layer that a file names.

    Raises:
        InvalidRequest: it names none, or one that does not exist.

    """
    layer: object = None
    try:
        if body.lstrip()[:1] == b"{":
            layer = json.loads(body).get("layer")
        else:
            length = int.from_bytes(body[:8], "little")
            metadata = json.loads(body[8 : 8 + length]).get("__metadata__", {})
            layer = json.loads(metadata.get("request", "{}")).get("layer")
    except (ValueError, AttributeError, TypeError, RecursionError):
        detail = "expected JSON, or a safetensors file, of a check: layer, request and expected"
        raise InvalidRequest.at("layer", "missing", detail) from None
    if not isinstance(layer, str):
        raise InvalidRequest.at("layer", "missing", "layer: expected the name of a layer")
    if layer not in LAYERS:
        detail = f"layer: no layer has that name; {nearest(layer, LAYERS)}"
        raise InvalidRequest.at("layer", "unknown-layer", detail)
    return layer


def _progress() -> Callable[[], None]:
    """Shows the number of steps on a terminal."""
    steps, shown = 0, time.monotonic()

    def step() -> None:
        nonlocal steps, shown
        steps += 1
        if time.monotonic() - shown > PROGRESS_S:
            shown = time.monotonic()
            print(f"\r{steps} runs ", end="", file=sys.stderr, flush=True)

    return step


def described(answer: Mapping[str, Any]) -> str:
    """The answer for people."""
    lines = [line for tensor in answer["tensors"] for line in _tensor(tensor)]
    if answer["match"]:
        return "\n".join([*lines, "Everything matches the reference."])
    for number, one in enumerate(answer["diagnosis"], 1):
        what = json.dumps(one["options"]) if one["options"] else ""
        named = " ".join(filter(None, (one.get("fault"), what)))
        lines += ["", f"{number}. {one['message']}", f"   {named}   ({one['more']})"]
    searched = answer["searched"]
    end = "" if searched["complete"] else "; the cost limit ended the search"
    lines.append("")
    if not answer["diagnosis"]:
        lines.append("Nothing that was tried explains all of the difference.")
    lines.append(f"Searched {searched['hypotheses']} hypotheses{end}.")
    return "\n".join(lines)


def _tensor(tensor: Mapping[str, Any]) -> list[str]:
    if tensor["match"]:
        line = f"{tensor['name']}: matches"
        return [line + (f"; {tensor['note']}" if "note" in tensor else "")]
    lines = [f"{tensor['name']}: {tensor['mismatched']} of {tensor['total']} differ"]
    if "first_mismatch" in tensor:
        first = tensor["first_mismatch"]
        lines.append(
            f"   first at {list(first['index'])}: yours {first['expected']}, "
            f"reference {first['actual']}"
        )
    if "note" in tensor:
        lines.append(f"   {tensor['note']}")
    return lines
