"""Scores are the papers' formulas, step by step, and say what they need at which path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import Score, fisher, movement, prune, snip, taylor
from tests.prune import loops

SHAPE = (6, 10)
KEPT = 24


@pytest.fixture
def steps(rng):
    """Weights and gradients at steps 0, 1, 2, 3."""
    return [{"w": jnp.asarray(rng.normal(size=(2, *SHAPE)), jnp.float32)} for _ in range(4)]


def followed(pruner, steps):
    """The masks at each step, from ``init`` on, in a jitted loop."""
    params, state = {"w": steps[0]["w"][0]}, pruner.init({"w": steps[0]["w"][0]})
    assert (state.mask if isinstance(state, jc.prune.Scored) else state)["w"].all()
    update, masks = jax.jit(lambda params, state, i, grads: pruner.update(params, state, i, grads=grads)), []
    for i, both in enumerate(steps):
        params, grads = {"w": both["w"][0]}, {"w": both["w"][1]}
        state = update(params, state, i, grads)
        masks.append(np.asarray((state.mask if isinstance(state, jc.prune.Scored) else state)["w"]))
    return masks


def moving_average(rows, decay):
    held = [rows[0]]
    for row in rows[1:]:
        held.append(decay * held[-1] + (1 - decay) * row)
    return np.stack(held)


FORMULAS = {
    "taylor": (taylor(), lambda w, g: np.abs(w * g)),
    "taylor-squared": (taylor(order=2), lambda w, g: (w * g) ** 2),
    "taylor-averaged": (taylor(decay=0.75), lambda w, g: moving_average(np.abs(w * g), 0.75)),
    "snip": (snip(), lambda w, g: [np.abs(w[0] * g[0])] * len(w)),
    "movement": (movement(), lambda w, g: -np.cumsum(w * g, axis=0)),
    "fisher": (fisher(decay=0.75), lambda w, g: w**2 * moving_average(g**2, 0.75)),
    "fisher-fourth-root": (fisher(4, decay=0.75), lambda w, g: w**4 * moving_average(g**2, 0.75)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_of_gradients_are_the_papers_formulas(steps, name):
    score, formula = FORMULAS[name]
    weights, grads = (np.stack([np.float64(both["w"][i]) for both in steps]) for i in (0, 1))
    for mask, scores in zip(followed(prune(0.6, score), steps), formula(weights, grads), strict=True):
        np.testing.assert_array_equal(mask, loops.top(scores, KEPT))


@pytest.mark.parametrize("name", ["taylor-averaged", "movement", "fisher"])
def test_what_is_remembered_is_rounded_alike_in_every_program(rng, name):
    """One rounding for a product and its sum, in a fused program alone, would be another number."""
    draw = lambda: {"w": jnp.asarray(rng.normal(size=4000), jnp.float32)}  # noqa: E731
    pruner = prune(0.6, FORMULAS[name][0])
    update = lambda params, state, i, grads: pruner.update(params, state, i, grads=grads)  # noqa: E731
    params, one = draw(), pruner.init(draw())
    other = one
    for i in range(3):
        grads = draw()
        one, other = update(params, one, i, grads), jax.jit(update)(params, other, i, grads)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", ["taylor-averaged", "snip", "movement", "fisher"])
def test_gradients_that_are_not_finite_are_not_remembered(steps, name):
    """Loss scaling overflows now and then: one such step would rank for ever after."""
    pruner = prune(0.6, FORMULAS[name][0])
    update = jax.jit(lambda state, i, grads: pruner.update({"w": steps[0]["w"][0]}, state, i, grads={"w": grads}))
    state = update(pruner.init({"w": steps[0]["w"][0]}), 0, steps[0]["w"][1])
    clean = update(state, 1, steps[1]["w"][1])
    lost = update(state, 1, jnp.full(SHAPE, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, lost, state)
    partly = update(state, 1, steps[1]["w"][1].at[0].set(jnp.inf).at[1].set(jnp.nan)).memory["w"]
    np.testing.assert_array_equal(partly[2:], clean.memory["w"][2:])
    np.testing.assert_array_equal(partly[:2], state.memory["w"][:2])
    afresh = update(clean, 0, jnp.full(SHAPE, jnp.inf)).memory  # step 0 forgets in any case
    np.testing.assert_array_equal(afresh["w"], pruner.init({"w": steps[0]["w"][0]}).memory["w"])


@pytest.mark.parametrize("regrow", [None, "rigl"])
def test_masks_stand_where_gradients_are_not_finite(steps, regrow):
    pruner = prune(0.6, "magnitude" if regrow else "taylor", regrow=regrow)
    update = jax.jit(lambda params, state, i, grads: pruner.update(params, state, i, grads=grads))
    trees = [({"a": both["w"][0], "b": -both["w"][0]}, {"a": both["w"][1], "b": both["w"][1]}) for both in steps]
    state = update(trees[0][0], pruner.init(trees[0][0]), 1, trees[0][1])
    params, grads = trees[1]
    moved = update(params, state, 2, grads)
    assert (moved["a"] != state["a"]).any()
    for bad in (jnp.nan, -jnp.inf):
        spoilt = grads | {"b": grads["b"].at[0, 0].set(bad)}
        jax.tree.map(np.testing.assert_array_equal, update(params, state, 2, spoilt), state)
        jax.tree.map(np.testing.assert_array_equal, pruner.update(params, state, 2, grads=spoilt), state)
    if regrow:  # the first mask needs no gradient
        begun = update(params, state, 0, jax.tree.map(lambda grad: grad * jnp.nan, grads))
        jax.tree.map(np.testing.assert_array_equal, begun, pruner.init(params))


def test_snip_takes_the_first_gradients_whenever_they_come(steps):
    """The optax adaptor's first update is that of step 1."""
    params, grads = {"w": steps[1]["w"][0]}, {"w": steps[1]["w"][1]}
    pruner = prune(0.6, "snip")
    state = pruner.update(params, pruner.init(params), 1, grads=grads)
    state = pruner.update(params, state, 2, grads={"w": steps[2]["w"][1]})
    np.testing.assert_array_equal(state.mask["w"], loops.top(np.abs(params["w"] * grads["w"]), KEPT))


@pytest.mark.parametrize(
    ("shape", "norms"), [(SHAPE, (6,)), ((3, 3, 2, 5), (2,)), ((3, 3, 2, 5), (3, 3, 2)), ((3, 3, 1, 5), (1, 1, 1, 5))]
)
def test_wanda_is_magnitude_times_the_norm_of_the_input(rng, shape, norms):
    weights, given = rng.normal(size=shape), rng.uniform(0.1, 9, norms)
    params = {"layer": {"kernel": jnp.asarray(weights, jnp.float32)}}
    pruner = jc.partition([(".*", prune(0.5, "wanda"))])
    state = pruner.update(params, pruner.init(params), 3, statistics={"layer/kernel": given})
    scale = given if given.ndim == len(shape) else given[..., None]
    wanted = loops.top(np.abs(weights) * scale, weights.size - round(0.5 * weights.size))
    np.testing.assert_array_equal(state[0]["layer/kernel"], wanted)


def test_a_random_order_follows_from_the_seed_and_the_path_alone():
    params = {"a": jnp.ones((40, 10)), "b": jnp.ones((40, 10))}
    masks = prune(0.7, "random").init(params)
    assert [int(mask.sum()) for mask in masks.values()] == [120, 120]
    assert (masks["a"] != masks["b"]).any()
    alone = prune(0.7, "random").update({"a": params["a"] * 2}, None, 0)
    np.testing.assert_array_equal(alone["a"], masks["a"])
    np.testing.assert_array_equal(prune(0.7, "random").update(params, masks, 99)["a"], masks["a"])
    other = prune(0.7, jc.prune.random_score(seed=1)).init(params)
    assert (other["a"] != masks["a"]).any()
    assert (prune(0.9, "random").init(params)["a"] <= masks["a"]).all()


@pytest.mark.parametrize("name", ["taylor", "snip", "movement", "fisher"])
def test_missing_gradients_are_named(name):
    params = {"layer": {"kernel": jnp.ones(3)}}
    pruner = prune(0.5, name)
    message = f"the score '{name}' needs the gradient of 'layer/kernel', .*grads=grads"
    for grads in (None, {}):
        with pytest.raises(ArgumentError, match=message):
            pruner.update(params, pruner.init(params), 1, grads=grads)
    with pytest.raises(ArgumentError, match=r"the gradient of 'layer/kernel' has shape \(1,\), but .* \(3,\)"):
        pruner.update(params, pruner.init(params), 1, grads={"layer": {"kernel": jnp.ones(1)}})


def test_missing_or_misshapen_statistics_are_named():
    params, pruner = {"w": jnp.ones((4, 3))}, prune(0.5, "wanda")
    with pytest.raises(ArgumentError, match=r"the score 'wanda' needs a statistic of 'w'.*statistics="):
        pruner.update(params, pruner.init(params), 1)
    with pytest.raises(ArgumentError, match=r"statistic of 'w' has shape \(3,\); for weights of shape \(4, 3\)"):
        pruner.update(params, pruner.init(params), 1, statistics={"w": jnp.ones(3)})


def test_a_score_is_a_few_lines():
    """Distance from the mean, written by a user."""
    far = Score("far from the mean", lambda evidence, memory: jnp.abs(evidence.weight - evidence.weight.mean()))
    assert prune(0.5, far, pattern=jc.prune.filters()).init(jnp.array([[0.0, 5.0, 1.0, 6.0]])).tolist() == [
        [True, False, False, True]
    ]


def test_gradients_come_through_recipes(steps):
    params, grads = {"net": {"w": steps[0]["w"][0]}}, {"net": {"w": steps[0]["w"][1]}}
    recipe = jc.partition([(".*/w", jc.chain(jc.every(2, prune(0.6, "taylor")), jc.quant.fake(8)))])
    state = recipe.update(params, recipe.init(params), 4, grads=grads)
    wanted = loops.top(np.abs(params["net"]["w"] * grads["net"]["w"]), KEPT)
    np.testing.assert_array_equal(recipe.apply(params, state)["net"]["w"] != 0, wanted)


@pytest.mark.parametrize("arguments", [{"order": 3}, {"order": 1, "decay": 1.0}])
def test_arguments_that_mean_nothing_are_refused(arguments):
    with pytest.raises(ArgumentError, match="taylor needs order 1 or 2 and a decay"):
        taylor(**arguments)
    with pytest.raises(ArgumentError, match="fisher needs root 2 or 4 and a decay"):
        fisher(*arguments.values())
    with pytest.raises(ArgumentError, match="order must be 1 or 2, got 0"):
        jc.prune.magnitude_score(0)
