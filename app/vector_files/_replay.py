"""Runs a set of files against a service, and says which results are out of tolerance."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.codecs import CODECS, JSON, Array
from app.compute.matching import Bound, matches, sent
from app.errors import RequestError
from app.schemas.tensors import TensorField, TensorPayload
from app.vector_files._formats import MANIFEST
from app.vector_files._set import result_name
from app.vector_files._url import Ask

MAX_RANK, MAX_LIST = 32, 64
SUFFIX = ".json"


class UnreadableSet(Exception):
    """The folder is no set that can be replayed; the message says why."""


class Failure(NamedTuple):
    """A result out of tolerance, or a case without one (`tensor` is empty)."""

    layer: str
    case: str
    tensor: str
    reason: str


class Replayed(NamedTuple):
    """One case that was replayed."""

    layer: str
    case: str
    failures: tuple[Failure, ...]


def replay(folder: Path, ask: Ask) -> Iterator[Replayed]:
    """Replay each case of a folder.

    Raises:
        UnreadableSet: no manifest, a file that is missing or changed, or no format with options.
        Unreachable: from `ask`.

    """
    for name in _checked_files(folder):
        whole = json.loads((folder / name).read_bytes())
        for case in whole["cases"]:
            yield _replayed(whole["layer"], whole["dtype"], case, ask)


def _checked_files(folder: Path) -> list[str]:
    """The files with cases, after all are found to be as they were written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files: Mapping[str, Mapping[str, str]] = manifest["files"]
        for name, about in files.items():
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != about["sha256"]:
                raise UnreadableSet(f"{name}: changed since it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableSet(f"{folder}: no set of vectors ({error})") from error
    found = [name for name in files if name.endswith(SUFFIX)]
    if not found:
        raise UnreadableSet(f"{folder}: has no file in the json format, which is what is replayed")
    return found


def _replayed(layer: str, dtype: str, case: Mapping[str, Any], ask: Ask) -> Replayed:
    sends: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for name, tensor in case["tensors"].items():
        kind, _, rest = name.partition(".")
        (sends if kind == "in" else expected)[rest if kind == "in" else name] = tensor
    body = json.dumps({**case["options"], **_listed(sends)}, allow_nan=False).encode()
    status, text = ask(f"/v1/layers/{layer}", body)

    def failure(tensor: str, reason: str) -> Failure:
        return Failure(layer, case["name"], tensor, reason)

    if status != 200:
        return Replayed(layer, case["name"], (failure("", f"status {status}: {_detail(text)}"),))
    try:
        results = _tensors(text, [result_name(name) for name in expected], dtype)
    except RequestError as error:
        return Replayed(layer, case["name"], (failure("", f"unreadable answer: {error}"),))
    wrong = []
    for name, tensor in expected.items():
        reference = _payload(tensor)
        reason = _difference(results.get(result_name(name)), reference, case["tolerance"][name])
        if reason:
            wrong.append(failure(name, reason))
    return Replayed(layer, case["name"], tuple(wrong))


def _listed(sends: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs.0`, `inputs.1` as a list named `inputs`."""
    found: dict[str, Any] = {}
    for name, tensor in sends.items():
        head, _, number = name.partition(".")
        if number:
            found.setdefault(head, []).append(tensor)
        else:
            found[name] = tensor
    return found


def _detail(text: bytes) -> str:
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:200].decode(errors="replace")


def _payload(tensor: Mapping[str, Any]) -> TensorPayload:
    text = json.dumps({"dtype": tensor["dtype"], "tensor": tensor}).encode()
    payload: TensorPayload = CODECS[JSON].decode(
        text, {"tensor": TensorField()}, max_rank=MAX_RANK, max_list=MAX_LIST
    )["tensor"]
    return payload


def _tensors(text: bytes, names: list[str], dtype: str) -> dict[str, TensorPayload]:
    """The results of these names in an answer, in any encoding."""
    answer = json.loads(text)
    found = {}
    for name in names:
        value: Any = answer
        for part in name.split("."):
            index: Any = int(part) if part.isdigit() else part
            try:
                value = value[index]
            except (KeyError, IndexError, TypeError):
                value = None
                break
        if value is not None:
            own = "int64" if name in ("indices",) or name.endswith("_tracked") else dtype
            found[name] = _as_payload(value, own)
    return found


def _as_payload(value: Any, dtype: str) -> TensorPayload:
    if isinstance(value, int | float | str):
        value = {"shape": [], "data": [value]}
    text = json.dumps({"dtype": dtype, "tensor": value}).encode()
    payload: TensorPayload = CODECS[JSON].decode(
        text, {"tensor": TensorField()}, max_rank=MAX_RANK, max_list=MAX_LIST
    )["tensor"]
    return payload


def _difference(
    result: TensorPayload | None, reference: TensorPayload, tolerance: Mapping[str, Any]
) -> str:
    """What is wrong with a result; nothing if it is right."""
    if result is None:
        return "missing in the answer"
    if result.shape != reference.shape:
        return f"shape {list(result.shape)}, expected {list(reference.shape)}"
    bound = Bound(tolerance["rtol"], tolerance["atol"], tolerance["ulp"])
    ours, theirs = sent(result), sent(reference)
    wrong = ~matches(ours, theirs, bound)
    if not wrong.any():
        return ""
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} elements are out of tolerance; the first, at "
        f"{list(first)}, is {_shown(ours.numbers, first)}, expected {_shown(theirs.numbers, first)}"
    )


def _shown(array: Array, index: tuple[int, ...]) -> str:
    return repr(array[index].item())
