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

    `dtype`, where it is not there yet, is that of the layer's first tensor without a dtype of its
    own; the order in a file tells nothing, as writers sort by dtype. Names that the layer has not
    are put in as they are.

    Raises:
        InvalidRequest: a tensor of another dtype, one that is there twice, gaps in a list, one
            tensor for a list.

    """
    known = {name: field for name in payloads if (field := _field(name, tensors))}
    sharing = [name for name, field in known.items() if field.dtype is None]
    if sharing and "dtype" not in fields:
        fields["dtype"] = payloads[_first(sharing, list(tensors))].dtype
    for name, field in known.items():
        wanted, came = field.dtype or fields["dtype"], payloads[name].dtype
        if isinstance(wanted, str) and wanted in DTYPES and came != wanted:
            detail = f"{name}: expected the dtype {wanted}; got {came}"
            raise InvalidRequest.at(name.replace(".", "/"), "dtype-mismatch", detail)
        if field.many and name in tensors:
            detail = f"{name}: expected a list, named {name}.0, {name}.1 and so on; got one tensor"
            raise InvalidRequest.at(name, "tensor-form", detail)
    lists: dict[str, dict[str, TensorPayload]] = {}
    for name, payload in payloads.items():
        head, _, number = name.partition(".")
        if number and name in known:
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


def _field(name: str, tensors: Mapping[str, TensorField]) -> TensorField | None:
    """The field that the name stands for, or for an entry of."""
    head, dot, _ = name.partition(".")
    field = tensors.get(head)
    return field if field is None or field.many or not dot else None


def _first(names: list[str], order: list[str]) -> str:
    """The name whose field, and number in it, comes first."""

    def place(name: str) -> tuple[int, int, str]:
        head, _, number = name.partition(".")
        return order.index(head), len(number), number

    return min(names, key=place)
