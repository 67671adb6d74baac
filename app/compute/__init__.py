"""Runs any layer: devices, payloads <-> tensors, gradients, and the checks that guard torch."""

from app.compute.chain import located, plan_chain, run_chain
from app.compute.chain_shapes import chain_shapes
from app.compute.engine import Answer, Engine
from app.compute.estimates import Estimate
from app.compute.folding import Folding, check_pair, fold, fold_estimate, is_last

__all__ = [
    "Answer",
    "Engine",
    "Estimate",
    "Folding",
    "chain_shapes",
    "check_pair",
    "fold",
    "fold_estimate",
    "is_last",
    "located",
    "plan_chain",
    "run_chain",
]
