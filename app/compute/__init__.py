"""Runs any layer: device, payloads <-> torch, gradients, and the bounds that guard torch."""

from app.compute.bounds import estimated_ms
from app.compute.engine import Engine

__all__ = ["Engine", "estimated_ms"]
