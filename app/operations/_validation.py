"""Pydantic's findings in a request, as pointers and sentences."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.errors import MAX_ERRORS, FieldError, InvalidRequest


def validated(model: type[BaseModel], fields: Mapping[str, object]) -> Any:
    """The fields as a request model.

    Raises:
        InvalidRequest: with a pointer to each wrong field.

    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error, model.model_fields) from None


def from_validation(error: ValidationError, known: Collection[str]) -> InvalidRequest:
    """Pydantic's findings as pointers and sentences, without the input's values: the first few."""
    findings = error.errors(include_url=False, include_input=False, include_context=False)
    # A misspelt name first: it explains the one that is missing.
    findings.sort(key=lambda found: found["type"] != "extra_forbidden")
    findings = [found for found in findings if not _is_echo(found, findings)]
    fields = [
        _field_error(found["type"], found["loc"], found["msg"], known)
        for found in findings[:MAX_ERRORS]
    ]
    first = fields[0].detail
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return InvalidRequest(first + more, fields)


def _is_echo(found: ErrorDetails, findings: Sequence[ErrorDetails]) -> bool:
    """Whether a list is called too short only because pydantic dropped its wrong entries."""
    loc = found["loc"]
    return found["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in findings
    )


def _field_error(
    kind: str, loc: tuple[int | str, ...], message: str, known: Collection[str]
) -> FieldError:
    # Behind the field's name stand union tags, which are no part of the request.
    name = str(loc[0]) if loc else ""
    path = "/".join([_escaped(name), *(str(part) for part in loc[1:] if isinstance(part, int))])
    if kind == "extra_forbidden":
        detail = f"{name[:64]}: unknown field; {nearest(name, known)}"
        return FieldError(f"#/{path}", "unknown-field", detail)
    code = "missing" if kind == "missing" else kind.replace("_", "-")
    return FieldError(f"#/{path}", code, f"{path}: {message[:1].lower()}{message[1:]}")


def nearest(name: str, known: Collection[str]) -> str:
    """A hint at the known name that is most like this one, else all of them."""
    near = difflib.get_close_matches(name[:64], known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def _escaped(name: str) -> str:
    return name[:64].replace("~", "~0").replace("/", "~1")
