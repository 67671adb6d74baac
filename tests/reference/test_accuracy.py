"""Every result is within its bound on long sums; the long run tests longer ones."""

import pytest

from app.compute import Engine
from app.layers import LAYERS as SPECS
from tests._soak import SOAK
from tests.reference.accuracy import measured
from tests.reference.bounds import BOUNDS, result_of
from tests.reference.layers import FAMILIES, LAYERS, family_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("layer", LAYERS)
def test_errors_stay_within_their_bounds(engine: Engine, layer: str) -> None:
    worst = sorted(measured(engine, layer, full=SOAK), key=lambda one: -one.ratio)[:3]
    for one in worst:
        assert one.ratio <= 1, f"{one.case} {one.name}: {one.ratio:.2f} of the bound"


def test_every_layer_has_its_bounds() -> None:
    assert set(BOUNDS) == set(FAMILIES)
    assert all(bound.text for results in BOUNDS.values() for bound in results.values())


@pytest.mark.parametrize("layer", LAYERS)
def test_the_docs_tell_the_bounds_that_are_held(layer: str) -> None:
    """The layers page is generated from `accuracy`."""
    told = SPECS[layer].accuracy
    held = {name: bound.text for name, bound in BOUNDS[family_of(layer)].items()}
    assert {name: held[result_of(name)] for name in told} == told
    results = {port.name for port in SPECS[layer].outputs if port.name != "indices"}
    assert results <= told.keys()
