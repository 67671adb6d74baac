"""The form of an answer: content negotiation by `Accept` (RFC 9110, 12.5.1)."""

import re
from collections.abc import Mapping
from functools import lru_cache

from app.codecs import CODECS
from app.errors import NotAcceptable

QUOTED = re.compile(r'"(?:\\.|[^"\\])*(?:"|\\?$)')
WEIGHT = re.compile(r"[0-9]*\.?[0-9]*")
"""Java's default header leaves out the 0 before the point."""


def accepted(headers: Mapping[bytes, bytes], offered: tuple[str, ...] = tuple(CODECS)) -> str:
    """The media type to answer in: the caller's favorite, of equals the first it names.

    The most specific range that takes a type gives its weight, whatever the others say; 0 excludes
    the type. Our types have no parameters, so a range with some counts only where there is none
    without.

    Raises:
        NotAcceptable: none of those `offered`.

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
    """Name, whether it has parameters, and weight: 0 where that is no number from 0 to 1."""
    name, *pieces = part.split(";")
    count = 0
    for piece in pieces:
        key, _, value = (side.strip() for side in piece.partition("="))
        if key == "q":
            weight = float(value) if WEIGHT.fullmatch(value) and value.strip(".") else 0.0
            return name.strip(), count > 0, weight if weight <= 1 else 0.0
        count += bool(key)
    return name.strip(), count > 0, 1.0
