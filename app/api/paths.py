"""The URL path of each operation."""

from app.operations import COMPUTE, Operation, ServiceOperation


def path_of(operation: Operation, layer: str) -> str:
    """The path of an operation: of this layer, or of the service as a whole."""
    if isinstance(operation, ServiceOperation):
        return f"/v1/{operation.name}"
    path = f"/v1/layers/{layer}"
    return path if operation is COMPUTE else f"{path}/{operation.name}"
