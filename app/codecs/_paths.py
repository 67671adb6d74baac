"""Dotted names <-> nested objects: `gradients.input`, `replicas.0.output`. Numbers index a list."""

from collections.abc import Mapping
from typing import Any


def nested(flat: Mapping[str, object]) -> dict[str, Any]:
    """`{"gradients.input": x}` -> `{"gradients": {"input": x}}`; list entries come in order."""
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        head, _, rest = name.partition(".")
        if not rest:
            whole[name] = value
        elif rest.isidentifier():
            whole.setdefault(head, {})[rest] = value
        else:
            _put(whole, name, value)
    return whole


def _put(node: Any, path: str, value: object) -> None:
    """Set the value at a path of nested objects and lists; lists grow in order."""
    head, _, rest = path.partition(".")
    key: Any = int(head) if isinstance(node, list) else head
    is_new = key == len(node) if isinstance(node, list) else key not in node
    if rest:
        inner: Any = ([] if rest[0].isdigit() else {}) if is_new else node[key]
        _put(inner, rest, value)
        value = inner
    if not is_new:
        node[key] = value
    elif isinstance(node, list):
        node.append(value)
    else:
        node[key] = value
