"""Adds binary tensors, given by dotted name, to a request's fields."""

import re
from collections.abc import Mapping
from typing import Any

from app.errors import InvalidRequest, escaped
from app.schemas.tensors import (
    DTYPES,
    Field,
    GroupField,
    TensorField,
    TensorPayload,
    dtype_holder,
)

INDEX = re.compile(r"0|[1-9][0-9]{0,3}")
"""An entry of a list as a name spells it: one way each."""


def add_tensors(
    fields: dict[str, object],
    payloads: Mapping[str, TensorPayload],
    tensors: Mapping[str, Field],
    max_list: int,
) -> None:
    """Add the tensors to the fields: list entries (`inputs.0`) in the order of their numbers, and
    members of objects (`expected.output`, `layers.2.weight`) at the path of their name.

    `dtype`, if not set, is taken from the layer's first tensor without a dtype of its own, or from
    the first in an object if all are in objects; the order in a file means nothing, as writers sort
    by dtype. An object that sets the document's dtype is asked for it instead. Names unknown to the
    layer are added unchanged.

    Raises:
        InvalidRequest: a tensor with another dtype, a duplicate, gaps in a list, a single tensor
            in place of a list, or an object that is missing.

    """
    holder = dtype_holder(tensors)
    if holder is None:
        dtype = _settled(fields, payloads, tensors)
    else:
        inner: Any = fields.setdefault(holder, {})
        group: Any = tensors[holder]
        prefix = f"{holder}."
        own = {n.removeprefix(prefix): p for n, p in payloads.items() if n.startswith(prefix)}
        dtype = _settled(inner, own, group.fields) if isinstance(inner, dict) else None
    _Adder(dtype, max_list).add(fields, payloads, tensors, "")


def _settled(
    fields: dict[str, object],
    payloads: Mapping[str, TensorPayload],
    tensors: Mapping[str, Field],
) -> object:
    """The request's dtype, set from its first tensor if it is missing."""
    sharing = [
        name for name in payloads if (field := _field(name, tensors)) and field.dtype is None
    ]
    sharing = sharing or [
        name for name in payloads if (field := _nested_field(name, tensors)) and field.dtype is None
    ]
    if sharing and "dtype" not in fields:
        fields["dtype"] = payloads[_first(sharing, list(tensors))].dtype
    return fields.get("dtype")


class _Adder:
    """Adds tensors at any depth; error messages prefix names with the path so far."""

    def __init__(self, dtype: object, max_list: int) -> None:
        self._dtype = dtype
        self._max_list = max_list

    def add(
        self,
        fields: dict[str, object],
        payloads: Mapping[str, TensorPayload],
        tensors: Mapping[str, Field],
        path: str,
    ) -> None:
        lists: dict[str, dict[str, TensorPayload]] = {}
        groups: dict[str, dict[str, TensorPayload]] = {}
        for name, payload in payloads.items():
            head, dot, rest = name.partition(".")
            if isinstance(tensors.get(head), GroupField):
                if not dot:
                    wanted = "expected an object, or a list of objects; got a tensor"
                    raise _refused(path + name, "tensor-form", wanted)
                groups.setdefault(head, {})[rest] = payload
                continue
            field = _field(name, tensors)
            if field is not None:
                self._check(name, payload, field, path, whole=name in tensors)
            if rest and field is not None:
                lists.setdefault(head, {})[rest] = payload
            elif name in fields:
                raise _refused(path + name, "duplicate-field", "duplicate field")
            else:
                fields[name] = payload
        for head, numbered in lists.items():
            if head in fields:
                raise _refused(path + head, "duplicate-field", "duplicate field")
            order = [str(index) for index in range(len(numbered))]
            if numbered.keys() != set(order) or len(order) > self._max_list:
                wanted = f"expected {head}.0, {head}.1 and so on, at most {self._max_list}"
                raise _refused(path + head, "list-numbers", wanted)
            fields[head] = tuple(numbered[number] for number in order)
        for head, inner in groups.items():
            self._descend(fields, head, inner, tensors[head], path)

    def _check(
        self, name: str, payload: TensorPayload, field: TensorField, path: str, *, whole: bool
    ) -> None:
        wanted = field.dtype or self._dtype
        if isinstance(wanted, str) and wanted in DTYPES and payload.dtype != wanted:
            detail = f"expected dtype {wanted}; got {payload.dtype}"
            raise _refused(path + name, "dtype-mismatch", detail)
        if field.many and whole:
            detail = f"expected a list of tensors named {name}.0, {name}.1, ...; got one tensor"
            raise _refused(path + name, "tensor-form", detail)

    def _descend(
        self,
        fields: dict[str, object],
        head: str,
        payloads: Mapping[str, TensorPayload],
        group: Any,
        path: str,
    ) -> None:
        """Add tensors to the object, or to the objects of the list, named `head`."""
        if group.most is None:
            inner: Any = fields.setdefault(head, {})
            self._enter(inner, payloads, group, f"{path}{head}.")
            return
        by_number: dict[str, dict[str, TensorPayload]] = {}
        for name, payload in payloads.items():
            number, dot, rest = name.partition(".")
            if not dot:
                wanted = "expected an object; got a tensor"
                raise _refused(f"{path}{head}.{name}", "tensor-form", wanted)
            by_number.setdefault(number, {})[rest] = payload
        entries: Any = fields.get(head)
        for number, inner_payloads in by_number.items():
            place = f"{path}{head}.{number}"
            known = isinstance(entries, list) and INDEX.fullmatch(number)
            if not known or int(number) >= len(entries):
                raise _refused(place, "list-numbers", "expected the index of a list entry")
            self._enter(entries[int(number)], inner_payloads, group, f"{place}.")

    def _enter(
        self, inner: Any, payloads: Mapping[str, TensorPayload], group: GroupField, path: str
    ) -> None:
        if not isinstance(inner, dict):
            raise _refused(path[:-1], "tensor-form", "expected an object")
        self.add(inner, payloads, group.fields, path)


def _refused(name: str, code: str, what: str) -> InvalidRequest:
    return InvalidRequest.at(escaped(name).replace(".", "/"), code, f"{name}: {what}")


def _field(name: str, tensors: Mapping[str, Field]) -> TensorField | None:
    """The field with this name, or the list field that the name is an entry of."""
    head, dot, _ = name.partition(".")
    field = tensors.get(head)
    if not isinstance(field, TensorField):
        return None
    return field if field.many or not dot else None


def _nested_field(name: str, tensors: Mapping[str, Field]) -> TensorField | None:
    """The field with this name, at any depth."""
    head, _, rest = name.partition(".")
    field = tensors.get(head)
    if not isinstance(field, GroupField):
        return _field(name, tensors)
    return _nested_field(rest if field.most is None else rest.partition(".")[2], field.fields)


def _first(names: list[str], order: list[str]) -> str:
    """The name that comes first, by order of fields and then by number."""

    def place(name: str) -> tuple[int, int, str]:
        head, _, number = name.partition(".")
        return order.index(head), len(number), number

    return min(names, key=place)
