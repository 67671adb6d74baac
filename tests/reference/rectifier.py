"""The rectified linear unit."""

import numpy as np

from tests.reference._requests import Expected, Request, as_numbers, exact


def relu(request: Request) -> dict[str, Expected]:
    """The element, or 0 if it is negative; the gradient passes unless the element is at most 0."""
    x = as_numbers(request.body["input"])
    found = {"output": exact(np.where(x <= 0, 0, x))}
    given = request.body.get("grad_output")
    if given is not None:
        gradient = np.ones(x.shape) if isinstance(given, str) else as_numbers(given)
        found["gradients.input"] = exact(np.where(x <= 0, 0, gradient))
    return found
