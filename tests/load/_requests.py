"""Requests of many sizes and costs, as bytes."""

import json
from collections.abc import Mapping, Sequence

from tests.load._client import post

NUMBERS = ("0.25", "-1.5", "3.0625", "17.125", "-0.0078125", "1234.5")


def tensor(shape: Sequence[int]) -> str:
    """A tensor's payload with numbers of several lengths."""
    number = 1
    for extent in shape:
        number *= extent
    repeated = NUMBERS * (number // len(NUMBERS) + 1)
    return f'{{"shape":{list(shape)},"data":[{",".join(repeated[:number])}]}}'


def body(shape: Sequence[int], **fields: object) -> bytes:
    """A compute request's body with an input of this shape."""
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items())
    return f'{{"input":{tensor(shape)}{rest}}}'.encode()


def request(layer: str, shape: Sequence[int], **fields: object) -> bytes:
    """The bytes of a compute request."""
    return post(f"/v1/layers/{layer}", body(shape, **fields))


SMALL = request("max_pool2d", (1, 1, 4, 4), kernel_size=2)
MEDIUM = request("avg_pool2d", (1, 6, 64, 64), kernel_size=2)
"""24,576 numbers."""
WINDOWS = request("max_pool2d", (1, 1, 160, 160), kernel_size=79, stride=1)
"""About 30 ms of one core from a body of 180 KB, in the lane for small requests."""
HEAVY = request("max_pool2d", (1, 1, 160, 160), kernel_size=79, stride=1, padding=39)
"""About 80 ms of one core, in the lane for large ones."""
INVALID = request("max_pool2d", (1, 1, 4, 4), kernel_size=0)
REQUESTS: Mapping[str, bytes] = {
    "small": SMALL,
    "medium": MEDIUM,
    "windows": WINDOWS,
    "heavy": HEAVY,
}
MIX: Mapping[str, int] = {"small": 40, "medium": 28, "windows": 10, "heavy": 22}
"""In a hundred; about 20 ms of one core on average."""
