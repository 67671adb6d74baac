"""Where each operation is asked for."""

from app.operations import COMPUTE, Operation, ServiceOperation


def path_of(operation: Operation, layer: str) -> str:
    """The path of an operation, of this layer or of the service."""
    if isinstance(operation, ServiceOperation):
        return f"/v1/{operation.name}"
    path = f"/v1/layers/{layer}"
    return path if operation is COMPUTE else f"{path}/{operation.name}"
