"""Binary tensors by name -> a request's fields."""

from collections.abc import Mapping

from app.errors import InvalidRequest
from app.schemas.tensors import DTYPES, TensorField, TensorPayload


def add_tensors(
    fields: dict[str, object],
    payloads: Mapping[str, TensorPayload],
    tensors: Mapping[str, TensorField],
    max_list: int,
) -> None:
    """Put the tensors into the fields, those of a list (`inputs.0`) in the order of their numbers.

    `dtype`, where it is not there yet, is that of the first tensor without a dtype of its own.

    Raises:
        InvalidRequest: a tensor of another dtype, one that is there twice, gaps in a list.

    """
    for name, payload in payloads.items():
        own = _field(name, tensors).dtype
        wanted = own or fields.setdefault("dtype", payload.dtype)
        if wanted in DTYPES and payload.dtype != wanted:
            detail = f"{name}: expected the dtype {wanted}; got {payload.dtype}"
            raise InvalidRequest.at(name.replace(".", "/"), "dtype-mismatch", detail)
    lists: dict[str, dict[str, TensorPayload]] = {}
    for name, payload in payloads.items():
        head, _, number = name.partition(".")
        if number and head in tensors and tensors[head].many:
            lists.setdefault(head, {})[number] = payload
        elif name in fields:
            raise InvalidRequest.at(name, "duplicate-field", f"{name}: given more than once")
        else:
            fields[name] = payload
    for head, numbered in lists.items():
        if head in fields:
            raise InvalidRequest.at(head, "duplicate-field", f"{head}: given more than once")
        order = [str(index) for index in range(len(numbered))]
        if numbered.keys() != set(order) or len(order) > max_list:
            detail = f"{head}: expected {head}.0, {head}.1 and so on, at most {max_list}"
            raise InvalidRequest.at(head, "list-numbers", detail)
        fields[head] = tuple(numbered[number] for number in order)


def _field(name: str, tensors: Mapping[str, TensorField]) -> TensorField:
    return tensors.get(name.partition(".")[0], TensorField())
