"""The cases of one layer as writers see them: options, and tensors under `in.`, `out.`, `grad.`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.codecs import Array, as_array, widen
from app.operations.vectors import Case
from app.schemas.tensors import DTYPES, TensorPayload

Files = dict[str, bytes]
LeftOut = dict[str, str]
"""Reasons by case."""
GRADIENTS = "gradients."


@dataclass(frozen=True, slots=True)
class VectorSet:
    """The golden vectors of one layer."""

    layer: str
    seed: int
    dtype: str
    cases: tuple[Case, ...]


def options_of(case: Case) -> dict[str, Any]:
    """The request without its tensors."""
    return {n: v for n, v in case.request.items() if not isinstance(v, TensorPayload)}


def tensors_of(case: Case) -> dict[str, TensorPayload]:
    """Every tensor of the case: `in.input`, `out.output`, `grad.input`."""
    sent = {f"in.{n}": v for n, v in case.request.items() if isinstance(v, TensorPayload)}
    got = {file_name(n): v for n, v in case.response.items() if isinstance(v, TensorPayload)}
    return sent | got


def file_name(result: str) -> str:
    """The name in files of a result of an answer."""
    if result.startswith(GRADIENTS):
        return f"grad.{result.removeprefix(GRADIENTS)}"
    return f"out.{result}"


def result_name(name: str) -> str:
    """The inverse of `file_name`."""
    kind, _, rest = name.partition(".")
    return f"{GRADIENTS}{rest}" if kind == "grad" else rest


def tolerance_of(case: Case) -> Mapping[str, Mapping[str, Any]]:
    """By the tensor's name in files."""
    return {file_name(name): one._asdict() for name, one in case.tolerance.items()}


def widened(payload: TensorPayload) -> Array:
    """The elements in a type that NumPy has: those of bfloat16 in float32, which holds them."""
    array = as_array(payload)
    if payload.dtype != "bfloat16":
        return array
    wide: Array = widen(array, payload.dtype).astype("<f4")
    return wide


def numbers(payload: TensorPayload) -> list[Any]:
    """The elements as Python's numbers, in row-major order."""
    array = widened(payload).reshape(-1)
    found: list[Any] = array.astype("<f8" if DTYPES[payload.dtype].is_float else "<i8").tolist()
    return found
