"""The list of operations. A new one is one file here and one word in OPERATIONS."""

from app.operations import batch, layer, shape
from app.operations._spec import Context, Fields, Operation, Reader, Task
from app.operations._validation import from_validation, nearest, validated

OPERATIONS = tuple(module.OPERATION for module in (layer, shape, batch))

__all__ = [
    "OPERATIONS",
    "Context",
    "Fields",
    "Operation",
    "Reader",
    "Task",
    "from_validation",
    "nearest",
    "validated",
]
