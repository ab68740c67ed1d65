"""Walks: two ways side by side are two walks; a method that is no better in the end leaves what the plain one finds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.paths import named_leaves
from jaxcomp.observe.evidence import Seen
from jaxcomp.posttrain import in_turn, round_weights
from jaxcomp.posttrain.find_biases import find_biases
from jaxcomp.posttrain.walk import Walk
from jaxcomp.rewrite import Scheme
from jaxcomp.trace.ir import trace
from jaxcomp.trace.uses import Use, uses_of
from tests.rewrite.lowrank.test_factors import normal

PARAMS = {"up": normal(6, 8, seed=1), "bias": normal(8, seed=2), "down": normal(8, 3, seed=3), "shift": jnp.zeros(3)}
BATCHES = [normal(20, 6, seed=seed) for seed in (4, 5)]


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x @ p["up"] + p["bias"]) @ p["down"] + p["shift"]


def test_two_ways_side_by_side_are_two_walks() -> None:
    program = trace(mlp, PARAMS, BATCHES[0])
    uses, named = uses_of(program), named_leaves(PARAMS)
    found = find_biases(program, {path: own for path, own in uses.items() if own.sites})
    sites = {path: uses[path].sites for path in found.of}
    biases = [bias for own in found.of.values() for bias in own]
    ways = [lambda path, *_: jnp.round(4 * named[path]) / 4, lambda path, *_: named[path] / 2]

    def solve(path: str, use: Use, seen: Seen) -> Any:
        return ways[0](path)

    both = Walk(program, sites, solve, biases=biases, other=ways[1])
    both.run(jax.tree.leaves(PARAMS), [[x] for x in BATCHES])
    for way, own in zip(both.ways, ways, strict=True):
        alone = Walk(program, sites, own, biases=biases).run(jax.tree.leaves(PARAMS), [[x] for x in BATCHES])
        assert way.errors == alone.errors
        assert way.errors["up"][0] > 0
        assert way.unmoved == alone.unmoved
        np.testing.assert_array_equal(way.lost, alone.lost)
        assert way.new.keys() == alone.new.keys() == PARAMS.keys()
        for path, leaf in way.new.items():
            np.testing.assert_array_equal(leaf, alone.new[path])


def test_a_method_that_is_worse_in_the_end_leaves_the_plain_one_and_no_more_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = list[bool]()

    class Counted(Walk):
        def run(self, *args: Any) -> Any:
            runs.append(self._other is not None)
            return super().run(*args)

    monkeypatch.setattr(in_turn, "is_worse", lambda *_: True)
    monkeypatch.setattr(in_turn, "Walk", Counted)
    found = round_weights(mlp, PARAMS, BATCHES, Scheme(8, inputs="dynamic"))
    plain = round_weights(mlp, PARAMS, BATCHES, Scheme(8, inputs="dynamic"), method="nearest")
    assert runs == [True, False]
    for one, other in zip(found.report.rows, plain.report.rows, strict=True):
        assert (one.error, one.bias) == (other.error, other.bias)
    for path, leaf in found.params.items():
        np.testing.assert_array_equal(leaf, plain.params[path])
