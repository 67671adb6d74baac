"""What the app hands to the server that runs it, for what the server answers itself."""

from collections.abc import Callable
from typing import Any, TypedDict

from app.api.readiness import Readiness


class LifespanState(TypedDict):
    """The lifespan's state: who knows of failures, who counts refusals, the headers of CORS."""

    readiness: Readiness
    denied: Callable[[str], None]
    cross_origin: Callable[..., Any] | None
