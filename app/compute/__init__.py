"""Runs any layer: devices, payloads <-> tensors, gradients, and the checks that guard torch."""

from app.compute.engine import Answer, Engine
from app.compute.estimates import Estimate

__all__ = ["Answer", "Engine", "Estimate"]
