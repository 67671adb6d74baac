"""The lists of operations. To add one, add a file here and a name to its list."""

from app.operations import batch, check, fold, layer, sequential, sequential_shape, shape, vectors
from app.operations._spec import (
    Context,
    Fields,
    LayerOperation,
    Operation,
    Reader,
    ServiceOperation,
    Task,
)
from app.operations._validation import from_validation, nearest, validated

LAYER_OPERATIONS = tuple(module.OPERATION for module in (layer, shape, check, vectors))
SERVICE_OPERATIONS = tuple(
    module.OPERATION for module in (batch, sequential, sequential_shape, fold)
)
COMPUTE = layer.OPERATION

__all__ = [
    "COMPUTE",
    "LAYER_OPERATIONS",
    "SERVICE_OPERATIONS",
    "Context",
    "Fields",
    "LayerOperation",
    "Operation",
    "Reader",
    "ServiceOperation",
    "Task",
    "from_validation",
    "nearest",
    "validated",
]
