"""Every result within its bound, on long sums; longer ones in the long run."""

import pytest

from app.compute import Engine
from tests._soak import SOAK
from tests.reference.accuracy import measured
from tests.reference.bounds import BOUNDS
from tests.reference.layers import FAMILIES, LAYERS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("layer", LAYERS)
def test_errors_stay_within_their_bounds(engine: Engine, layer: str) -> None:
    worst = sorted(measured(engine, layer, full=SOAK), key=lambda one: -one.ratio)[:3]
    for one in worst:
        assert one.ratio <= 1, f"{one.case} {one.name}: {one.ratio:.2f} of the bound"


def test_every_layer_has_its_bounds() -> None:
    assert set(BOUNDS) == set(FAMILIES)
    assert all(bound.text for results in BOUNDS.values() for bound in results.values())
