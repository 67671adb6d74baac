"""Chains equal their layers called one by one, bit for bit, and torch's autograd."""

import random
from typing import Any

import pytest

from app.api.problems import refusal
from app.compute import Engine
from app.layers import LAYERS, LayerSpec
from app.operations import Context
from app.operations.sequential import SequentialReader
from tests.operations._chains import CHAINABLE, one_by_one, random_chain, same, tensors_of
from tests._soak import rounds

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = range(rounds(12, 300))


@pytest.fixture(scope="module")
def reader(engine: Engine) -> SequentialReader:
    return SequentialReader(Context(engine, LAYERS, refusal))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("first", CHAINABLE, ids=lambda spec: spec.name)
def test_a_chain_equals_its_layers_one_by_one(
    engine: Engine, reader: SequentialReader, first: LayerSpec, seed: int
) -> None:
    fields = random_chain(engine, hash((first.name, seed)) if False else seed * 1000 + CHAINABLE.index(first), first)
    answers = one_by_one(engine, fields)
    found = reader.read({**fields, "return_intermediate": True}).work()
    assert same(found["output"], answers[-1]["output"])
    assert same(found["gradients.input"], answers[0]["gradients.input"])
    for index, answer in enumerate(answers):
        prefix = f"layers.{index}."
        own = dict(tensors_of(found, prefix))
        expected = dict(tensors_of(answer))
        expected.pop("gradients.input")
        assert own.keys() == expected.keys()
        for name, tensor in expected.items():
            assert same(own[name], tensor), f"{prefix}{name} of {[e['layer'] for e in fields['layers']]}"
        assert found[f"{prefix}options"] == answer["options"]
