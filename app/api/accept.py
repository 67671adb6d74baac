"""Content negotiation by the `Accept` header (RFC 9110, 12.5.1)."""

import re
from collections.abc import Mapping
from functools import lru_cache

from app.codecs import CODECS
from app.errors import NotAcceptable

QUOTED = re.compile(r'"(?:\\.|[^"\\])*(?:"|\\?$)')
WEIGHT = re.compile(r"[0-9]*\.?[0-9]*")
"""Java's default `Accept` header omits the 0 before the decimal point."""


def accepted(headers: Mapping[bytes, bytes], offered: tuple[str, ...] = tuple(CODECS)) -> str:
    """The media type of the response: the one the client prefers, or the first listed among equals.

    The most specific range that matches a type determines its weight; 0 excludes the type. Our
    types have no parameters, so a range with parameters counts only if the same range without them
    is absent.

    Raises:
        NotAcceptable: the header excludes every type in `offered`.

    """
    return _preferred(headers.get(b"accept", b""), offered)


@lru_cache(maxsize=256)
def _preferred(accept: bytes, offered: tuple[str, ...]) -> str:
    ranges: dict[tuple[str, bool], tuple[float, int]] = {}
    text = QUOTED.sub('""', accept.decode("l1").lower())
    for place, part in enumerate(filter(str.strip, text.split(","))):
        name, parameters, weight = _media_range(part)
        ranges.setdefault((name, parameters), (weight, -place))
    if not ranges:
        return offered[0]

    def preference(media: str) -> tuple[float, int]:
        taking = (media, media.partition("/")[0] + "/*", "*/*")
        keys = ((name, parameters) for name in taking for parameters in (False, True))
        return next((ranges[key] for key in keys if key in ranges), (0.0, 0))

    chosen = max(offered, key=preference)
    if not preference(chosen)[0]:
        raise NotAcceptable(f"the Accept header excludes {' and '.join(offered)}")
    return chosen


def _media_range(part: str) -> tuple[str, bool, float]:
    """Parse a media range: its name, whether it has parameters, and its weight (0 if invalid)."""
    name, *pieces = part.split(";")
    count = 0
    for piece in pieces:
        key, _, value = (side.strip() for side in piece.partition("="))
        if key == "q":
            weight = float(value) if WEIGHT.fullmatch(value) and value.strip(".") else 0.0
            return name.strip(), count > 0, weight if weight <= 1 else 0.0
        count += bool(key)
    return name.strip(), count > 0, 1.0
