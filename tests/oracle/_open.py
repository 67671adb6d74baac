"""Scenarios that `check` does not find out yet, and why not; each must leave when it does."""

from collections.abc import Mapping

OPEN: Mapping[str, str] = {
    "LAYERS 1.1: lp pooling scales a partial window":
        "same padding is not tried where the request has ceil_mode",
}  # fmt: skip
