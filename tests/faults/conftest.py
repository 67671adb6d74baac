"""Emulations of a few elements are quickest on one thread."""

import pytest


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> None:
    """Each test computes with its own thread alone."""
