"""Work in steps: between two of them, a request that nobody waits for any more is dropped."""

from collections.abc import Callable, Generator
from types import GeneratorType
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Yields after each step, and returns the result."""


def finished(work: T | Steps[T], check: Callable[[], object] = lambda: None) -> T:
    """The result of work, run step by step if it comes in steps; `check` may raise between them."""
    if not isinstance(work, GeneratorType):
        return work  # type: ignore[return-value]
    try:
        while True:
            next(work)
            check()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        work.close()
