"""What a client sent as its results: names, tensors and shapes."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.codecs import scalar
from app.errors import InvalidRequest, escaped
from app.layers import LayerSpec
from app.operations._validation import MAX_NAME, nearest
from app.schemas.tensors import Field, GroupField, TensorField, TensorPayload, json_kind

SHAPES = ("output_shape", "output_shapes")
INTEGERS = frozenset({"indices", "running_stats.num_batches_tracked"})
MAX_LENGTH = 2**63


class _Fields(dict[str, Field]):
    """The fields of an object; every other name is read as a tensor too, to be refused by name."""

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name."""
        return default if name in SHAPES else super().get(name, TensorField())


def result_fields(spec: LayerSpec, most: int) -> GroupField:
    """The fields of `expected`: every result that the layer can have."""
    names = [(port.name, port.many) for port in spec.outputs]
    names += [(f"gradients.{port.name}", port.many) for port in spec.inputs if port.differentiable]
    tree: dict[str, Any] = {}
    for name, many in names:
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = TensorField("int64" if name in INTEGERS else None, many)
    return GroupField(_grouped(tree, most))


def _grouped(tree: Mapping[str, Any], most: int) -> Mapping[str, Field]:
    return _Fields(
        {
            name: GroupField(_grouped(field, most), most if name == "replicas" else None)
            if isinstance(field, dict)
            else field
            for name, field in tree.items()
        }
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """Tensors by dotted name, the shape or shapes of the output if they were sent, and where in
    `expected` each stands.
    """

    tensors: Mapping[str, TensorPayload]
    shapes: Mapping[str, Any]
    places: Mapping[str, str]


def expected_of(sent: Mapping[str, object], dtype: str) -> Expected:
    """The results by dotted name.

    Raises:
        InvalidRequest: there is none, or one is neither a tensor nor a number.

    """
    if not sent:
        detail = "expected: send at least one of your own results, such as `output`"
        raise InvalidRequest.at("expected", "missing", detail)
    shapes = {name: _shape(name, sent[name]) for name in SHAPES if name in sent}
    places = {name: name for name in shapes}
    tensors: dict[str, TensorPayload] = {}
    rest = {name: value for name, value in sent.items() if name not in shapes}
    for name, place, payload in _flat(rest, (), dtype):
        if name in tensors:
            detail = f"expected/{place}: sent twice, also as expected/{places[name]}"
            raise InvalidRequest.at(f"expected/{place}", "duplicate-field", detail)
        tensors[name], places[name] = payload, place
    return Expected(tensors, shapes, places)


def _flat(
    value: Any, path: tuple[str, ...], dtype: str
) -> Iterator[tuple[str, str, TensorPayload]]:
    """Each tensor's dotted name, its place as in a pointer, and itself."""
    match value:
        case Mapping():
            for name, item in value.items():
                yield from _flat(item, (*path, name), dtype)
        case tuple() | list() if not isinstance(value, TensorPayload):
            for index, item in enumerate(value):
                yield from _flat(item, (*path, str(index)), dtype)
        case _:
            name = ".".join(path)
            place = "/".join(escaped(part[:MAX_NAME]) for part in path)
            is_tensor = isinstance(value, TensorPayload)
            yield name, place, value if is_tensor else _scalar(value, name, place, dtype)


def _scalar(value: object, name: str, place: str, dtype: str) -> TensorPayload:
    wanted = "int64" if name in INTEGERS else dtype
    payload = scalar(value, wanted)
    if payload is None:
        detail = (
            f"expected/{place}: expected a tensor, or a number of dtype {wanted}; "
            f"got {json_kind(value)}"
        )
        raise InvalidRequest.at(f"expected/{place}", "tensor-type", detail)
    return payload


def _shape(name: str, value: Any) -> Any:
    """A shape, or for a list of outputs, a list of shapes; as tuples."""

    def is_shape(item: Any) -> bool:
        return isinstance(item, list | tuple) and all(
            type(length) is int and 0 <= length < MAX_LENGTH for length in item
        )

    if name == "output_shape" and is_shape(value):
        return tuple(value)
    if name == "output_shapes" and isinstance(value, list | tuple) and all(map(is_shape, value)):
        return [tuple(item) for item in value]
    wanted = "a list of lengths" if name == "output_shape" else "a list of shapes"
    detail = f"expected/{name}: expected {wanted}; got {json_kind(value)}"
    raise InvalidRequest.at(f"expected/{name}", "shape-form", detail)


def check_names(expected: Expected, known: Collection[str]) -> None:
    """Refuse results that this request does not have.

    Raises:
        InvalidRequest: at the first of them; it lists those that there are.

    """
    for name in (*expected.tensors, *expected.shapes):
        if name in known:
            continue
        hint = nearest(name, known)
        listed = "" if hint.startswith("expected") else f"; expected one of {', '.join(known)}"
        detail = f"expected/{name[:MAX_NAME]}: this request answers no such result; {hint}{listed}"
        raise InvalidRequest.at(f"expected/{expected.places[name]}", "unknown-result", detail)
