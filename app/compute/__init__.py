"""Runs any layer: device, payloads <-> torch, gradients, and the bounds that guard torch."""

from app.compute.engine import Answer, Engine
from app.compute.estimates import Estimate

__all__ = ["Answer", "Engine", "Estimate"]
