"""Converts pydantic's validation errors to pointers and readable messages."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.errors import MAX_ERRORS, FieldError, InvalidRequest, escaped

OUT_OF_RANGE = frozenset(
    ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
)
MAX_SHOWN = 6
"""Longest number that an error message repeats, in characters."""
MAX_NAME = 64
"""How much of a field's name an error repeats, in characters."""


def validated(model: type[BaseModel], fields: Mapping[str, object]) -> Any:
    """Validate the fields and return a request model.

    Raises:
        InvalidRequest: with a pointer to each invalid field.

    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, model.model_fields) from None


def from_validation(error: ValidationError, known: Collection[str]) -> InvalidRequest:
    """Convert the first of pydantic's errors to pointers and messages. The only values of the
    request that they repeat are short numbers that are out of range.
    """
    findings = error.errors(include_url=False, include_context=False)
    # Put a misspelled name first, since it explains the one that is missing.
    findings.sort(key=lambda found: found["type"] != "extra_forbidden")
    findings = [found for found in findings if not _is_echo(found, findings)]
    fields = [
        _field_error(found["type"], found["loc"], _sentence(found), known)
        for found in findings[:MAX_ERRORS]
    ]
    first = fields[0].detail
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return InvalidRequest(first + more, fields)


def _is_echo(found: ErrorDetails, findings: Sequence[ErrorDetails]) -> bool:
    """Whether a list is reported as too short only because pydantic dropped its invalid entries."""
    loc = found["loc"]
    return found["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in findings
    )


def _field_error(
    kind: str, loc: tuple[int | str, ...], message: str, known: Collection[str]
) -> FieldError:
    # Drop the union tags after the field's name; they are not part of the request.
    name = str(loc[0]) if loc else ""
    path = "/".join(
        [escaped(name[:MAX_NAME]), *(str(part) for part in loc[1:] if isinstance(part, int))]
    )
    if kind == "extra_forbidden":
        detail = f"{name[:MAX_NAME]}: unknown field; {nearest(name, known)}"
        return FieldError(f"#/{path}", "unknown-field", detail)
    code = "missing" if kind == "missing" else kind.replace("_", "-")
    return FieldError(f"#/{path}", code, f"{path}: {message}")


def _sentence(found: ErrorDetails) -> str:
    """Pydantic's message, reworded: it calls every value `Input`, which is a field name here."""
    message = found["msg"].removeprefix("Value error, ").replace(" should ", " must ", 1)
    message = message.removeprefix("Input ")
    value = found["input"]
    if found["type"] in OUT_OF_RANGE and len(repr(value)) <= MAX_SHOWN:
        message += f"; got {value}"
    return message[:1].lower() + message[1:]


def nearest(name: str, known: Collection[str]) -> str:
    """A hint that names the closest known name, or all of them."""
    near = difflib.get_close_matches(name[:MAX_NAME], known, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
