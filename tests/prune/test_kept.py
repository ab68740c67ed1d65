"""The law of :func:`jaxcomp.prune.kept`: what the pruning members of a recipe keep, whatever the others make of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.prune import kept, magnitude

LATER = {
    "fake-2": lambda: jc.quant.fake(2),
    "fake-channel": lambda: jc.quant.fake(2, axis=-1, symmetric=False),
    "fp4": lambda: jc.quant.fake("fp4_e2m1", block=4, axis=()),
    "nf4": lambda: jc.quant.fake("nf4"),
    "power-of-two": lambda: jc.quant.fake("pot3"),
    "lsq": lambda: jc.quant.lsq(2),
    "pact": lambda: jc.quant.pact(2),
    "ternary": jc.quant.ternary,
    "ttq": lambda: jc.quant.ttq(0.5),
    "dorefa": lambda: jc.quant.dorefa(2),
    "binary": lambda: jc.quant.binary(balanced=True),
    "lowrank": lambda: jc.lowrank.project(1),
}
WRAPPED = {
    "chain": lambda prune, later: jc.chain(prune, later),
    "every": lambda prune, later: jc.every(3, jc.chain(prune, jc.every(2, later))),
    "straight-through": lambda prune, later: jc.straight_through(jc.chain(prune, later)),
    "partition": lambda prune, later: jc.partition([("b/w", jc.chain(prune, later)), ("a", later)]),
    "chain-of-partitions": lambda prune, later: jc.chain(
        jc.partition([("b/w", prune)]), jc.partition([(".*/w", later), ("a", jc.identity())])
    ),
}


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"a": 7 * draw(4), "b": {"w": 1.2 * draw(8, 4), "steps": jnp.array([3, 0])}}


@pytest.mark.parametrize(
    "later",
    [
        name if name in ("fake-2", "nf4", "lsq", "lowrank") else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in LATER
    ],
)
def test_a_recipe_keeps_what_its_pruner_keeps(params, later):
    alone = jc.partition([("b/w", magnitude(0.5))])
    masks = kept(alone, params, alone.init(params))
    assert int(masks["b"]["w"].sum()) == 16
    for name in WRAPPED if later in ("fake-2", "lowrank") else ["chain-of-partitions"]:
        recipe = WRAPPED[name](magnitude(0.5), LATER[later]())
        state = recipe.init(params)
        found = kept(recipe, params, state)
        assert jax.tree.all(jax.tree.map(lambda mask, leaf: mask.shape == leaf.shape, found, params))
        if name not in ("chain", "every", "straight-through"):  # which prune every leaf
            assert jax.tree.all(jax.tree.map(np.array_equal, found, masks)), name
        else:
            assert np.array_equal(found["b"]["w"], masks["b"]["w"]), name
            assert found["b"]["steps"].all()


def test_what_prunes_nothing_keeps_everything(params):
    for made in (*LATER.values(), jc.identity):
        assert all(mask.all() for mask in jax.tree.leaves(kept(made(), params, made().init(params))))


def test_pruners_in_a_row_keep_what_all_of_them_keep(params):
    recipe = jc.chain(jc.prune.prune(0.5, "random"), jc.quant.fake(2), magnitude(0.75))
    state = recipe.init(params)
    found = kept(recipe, params, state)["b"]["w"]
    assert np.array_equal(found, state[0]["b"]["w"] & state[2]["b"]["w"])


def test_pruners_of_other_kinds(params):
    both = jc.prune.top_kast(magnitude(0.75), magnitude(0.5))
    assert int(kept(both, params, both.init(params))["b"]["w"].sum()) == 8
    learned = jc.chain(jc.prune.learned_threshold(0.0), jc.quant.fake(2))
    found = kept(learned, params, learned.init(params))
    assert np.array_equal(found["b"]["w"], abs(params["b"]["w"]) > 0.5)
    groups = jc.trace.groups(lambda p, x: jnp.tanh(x @ p["v"]) @ p["w"], _two(), jnp.ones((1, 4)))
    recipe = jc.chain(jc.prune.channels(groups, 0.5), jc.quant.fake(2))
    assert int(kept(recipe, _two(), recipe.init(_two()))["v"].sum()) == 12


def _two():
    rng = np.random.default_rng(1)
    return {"v": jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), "w": jnp.asarray(rng.normal(size=(6, 2)))}


def test_a_compressor_of_ones_own_is_probed(params):
    """One that was built anew around a recipe, and says nothing of what it keeps."""
    recipe = jc.partition([("b/w", jc.chain(magnitude(0.5), jc.quant.fake(2)))])
    own = jc.Compressor(recipe.init, recipe.update, lambda params, state: recipe.apply(params, state))
    state = own.init(params)
    assert jax.tree.all(jax.tree.map(np.array_equal, kept(own, params, state), kept(recipe, params, state)))
