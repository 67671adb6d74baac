"""Requests of many sizes and costs, as bytes."""

import json
from collections.abc import Mapping, Sequence

from tests._wire import JSON, post

DIGITS = ("1", "0", "5", "9", "2")
NUMBERS = ("0.25", "-1.5", "3.0625", "17.125", "-0.0078125", "1234.5")


def tensor(shape: Sequence[int], *, digits: bool = False) -> str:
    """A tensor's payload, with numbers of one digit or of several lengths."""
    numbers = DIGITS if digits else NUMBERS
    number = 1
    for extent in shape:
        number *= extent
    repeated = numbers * (number // len(numbers) + 1)
    return f'{{"shape":{list(shape)},"data":[{",".join(repeated[:number])}]}}'


def body(shape: Sequence[int], *, digits: bool = False, **fields: object) -> bytes:
    """A compute request's body with an input of this shape."""
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items())
    return f'{{"input":{tensor(shape, digits=digits)}{rest}}}'.encode()


def request(layer: str, shape: Sequence[int], *, digits: bool = False, **fields: object) -> bytes:
    """The bytes of a compute request."""
    return post(f"/v1/layers/{layer}", body(shape, digits=digits, **fields), JSON)


SMALL = request("max_pool2d", (1, 1, 4, 4), kernel_size=2)
MEDIUM = request("avg_pool2d", (1, 6, 64, 64), kernel_size=2)
"""24,576 numbers."""
WINDOWS = request("max_pool2d", (1, 1, 88, 88), digits=True, kernel_size=73, stride=1, padding=36)
"""About 20 ms of one core from a body of 15 KB, in the lane for small requests."""
HEAVY = request("max_pool2d", (1, 1, 128, 128), digits=True, kernel_size=127, stride=1, padding=63)
"""About 90 ms of one core from a body of 33 KB, in the lane for large ones."""
INVALID = request("max_pool2d", (1, 1, 4, 4), kernel_size=0)
REQUESTS: Mapping[str, bytes] = {
    "small": SMALL,
    "medium": MEDIUM,
    "windows": WINDOWS,
    "heavy": HEAVY,
}
MIX: Mapping[str, int] = {"small": 40, "medium": 28, "windows": 10, "heavy": 22}
"""In a hundred; about 20 ms of one core on average."""
