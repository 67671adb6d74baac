"""Runs any layer: device, payloads <-> torch, gradients, and the bounds that guard torch."""

from app.compute.engine import Engine

__all__ = ["Engine"]
