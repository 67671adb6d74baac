"""The list of layers. To add a family, add a file here and a name to FAMILIES."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from app.layers import (
    adaptive_pool,
    avg_pool,
    batch_norm,
    conv,
    global_pool,
    group_norm,
    layer_norm,
    lp_pool,
    max_pool,
    max_unpool,
    relu,
    sync_batch_norm,
)
from app.layers._chain_requests import (
    chain_model,
    chain_tensors,
    is_chainable,
    list_of,
    shape_chain_model,
)
from app.layers._indices import planes
from app.layers._requests import compute_model, options_of, shape_model, tensor_fields
from app.layers._spec import LayerSpec, Plan, Port, Tensors
from app.layers._terms import Sums, Terms

FAMILIES = (
    max_pool,
    avg_pool,
    lp_pool,
    adaptive_pool,
    global_pool,
    max_unpool,
    batch_norm,
    sync_batch_norm,
    group_norm,
    layer_norm,
    conv,
    relu,
)


def build_registry(specs: Iterable[LayerSpec]) -> Mapping[str, LayerSpec]:
    """Build a read-only mapping from names to layers.

    Raises:
        ValueError: two layers share a name.

    """
    layers: dict[str, LayerSpec] = {}
    for spec in specs:
        if spec.name in layers:
            raise ValueError(f"two layers are named {spec.name}")
        layers[spec.name] = spec
    return MappingProxyType(layers)


LAYERS = build_registry(spec for family in FAMILIES for spec in family.SPECS)

__all__ = [
    "FAMILIES",
    "LAYERS",
    "LayerSpec",
    "Plan",
    "Port",
    "Sums",
    "Tensors",
    "Terms",
    "build_registry",
    "chain_model",
    "chain_tensors",
    "compute_model",
    "is_chainable",
    "list_of",
    "options_of",
    "planes",
    "shape_chain_model",
    "shape_model",
    "tensor_fields",
]
