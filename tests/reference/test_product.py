"""Compares the service with the reference over the product, or briefly over every fifth case."""

from collections.abc import Iterator

import pytest

from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS as SERVED
from app.layers import LayerSpec
from tests._soak import SOAK
from tests.reference._cases import PART, Case, cases
from tests.reference._options import OPTIONS
from tests.reference._windows import Refused
from tests.reference.comparison import differences
from tests.reference.layers import LAYERS, expected, family_of
from tests.reference.service import ask

SHOWN = 6
pytestmark = pytest.mark.usefixtures("one_thread")


def faults(engine: Engine, case: Case, planted: LayerSpec | None = None) -> Iterator[str]:
    """Describe what is wrong with the service's answer to a case."""
    try:
        right = expected(case.layer, case.body)
    except Refused:
        try:
            ask(engine, case.layer, case.body, planted)
        except InvalidRequest:
            return
        yield "accepted, and should be refused"
        return
    try:
        answer = ask(engine, case.layer, case.body, planted)
    except InvalidRequest as error:
        yield f"refused, and should not be: {error}"
        return
    yield from map(str, differences(family_of(case.layer), right, answer, case.dtype))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_service_is_right(engine: Engine, layer: str) -> None:
    asked, wrong = 0, []
    for case in cases(layer, 1 if SOAK else PART):
        asked += 1
        found = list(faults(engine, case))
        if found:
            wrong.append("\n  ".join([str(case), *found]))
    shown = "\n".join(wrong[:SHOWN])
    assert not wrong, f"{len(wrong)} of {asked} cases of {layer} are wrong:\n{shown}"


def test_every_layer_is_asked() -> None:
    assert set(LAYERS) == set(SERVED)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_brief_part_has_every_option(layer: str) -> None:
    options = OPTIONS[family_of(layer)]
    wanted = {name for choice in options for name in choice} - {"kernel", "trailing", "channels"}
    brief = list(cases(layer, PART))
    assert wanted - {"extra"} <= {name for case in brief for name in case.body}
    for name in wanted - {"extra"}:
        values = {repr(c[name]) for c in options if name in c and not isinstance(c[name], list)}
        values -= {repr("whole")}
        assert values <= {repr(case.body.get(name)) for case in brief}, name
