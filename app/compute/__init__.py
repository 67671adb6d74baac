"""Runs any layer: devices, payloads <-> tensors, gradients, and the checks that guard torch."""

from app.compute.chain import located, plan_chain, run_chain
from app.compute.chain_shapes import chain_shapes
from app.compute.engine import Answer, Engine
from app.compute.estimates import Estimate

__all__ = [
    "Answer",
    "Engine",
    "Estimate",
    "chain_shapes",
    "located",
    "plan_chain",
    "run_chain",
]
