"""Soft forms: Top-KAST, decay of what is pruned, proximal steps, and optimizers that know masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import blocks, decay_pruned, kernels, proximal_group_lasso, proximal_l1, top_kast, unstructured


def test_top_kast_shows_few_weights_and_lets_more_learn(rng):
    weights = jnp.asarray(rng.normal(size=100), jnp.float32)
    both = top_kast(jc.prune.magnitude(0.9), jc.prune.magnitude(0.7))
    state = both.init(weights)
    order = np.argsort(-np.abs(weights))
    view, pull_back = jax.vjp(lambda w: both.apply(w, state), weights)
    np.testing.assert_array_equal(np.flatnonzero(view), np.sort(order[:10]))
    np.testing.assert_array_equal(np.flatnonzero(pull_back(jnp.ones(100))[0]), np.sort(order[:30]))
    np.testing.assert_array_equal(both.apply(view, state), view)
    assert both.describe(weights, state, 0)[""].sparsity == 0.9


def stepped(tx, params, updates, state=None):
    updates, state = jax.jit(tx.update)(updates, tx.init(params) if state is None else state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_l1_step_minimizes_its_objective(rng, dtype):
    """argmin_w (w - v)^2 / 2 + t |w|, by a fine search; what is below t is exactly 0."""
    start, moves, level = rng.normal(size=30), rng.normal(size=30) / 4, 0.5
    params, updates = jnp.asarray(start, dtype), jnp.asarray(moves, dtype)
    new, _ = stepped(proximal_l1(5.0, 0.1), params, updates)
    arrived = np.float64(params) + np.float64(updates)
    grid = np.linspace(-4, 4, 80_001)
    best = grid[np.argmin((grid[:, None] - arrived) ** 2 / 2 + level * np.abs(grid[:, None]), axis=0)]
    assert new.dtype == params.dtype
    np.testing.assert_allclose(np.float64(new), best, atol=2e-4 if dtype == "float32" else 2e-2)
    np.testing.assert_array_equal(new == 0, np.abs(arrived) <= level)


@pytest.mark.parametrize(("pattern", "axes"), [(None, (0, 1, 2)), (kernels(), (0, 1))], ids=["filters", "kernels"])
def test_the_group_lasso_step_is_the_closed_form(rng, pattern, axes):
    weights = rng.normal(size=(3, 3, 4, 5)) * np.array([0.1, 0.5, 1, 2, 0])
    new, _ = stepped(
        proximal_group_lasso(2.0, 0.2, pattern), jnp.asarray(weights, jnp.float32), jnp.zeros((3, 3, 4, 5))
    )
    norms = np.sqrt((weights**2).sum(axes, keepdims=True))
    number = np.prod([weights.shape[axis] for axis in axes])
    factor = np.maximum(1 - 0.4 * np.sqrt(number) / np.where(norms > 0, norms, 1), 0)
    np.testing.assert_allclose(new, weights * factor, atol=1e-6)
    np.testing.assert_array_equal(new == 0, np.broadcast_to((factor == 0) | (norms == 0), weights.shape))
    assert 0 < (factor == 0).mean() < 1


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e37])
@pytest.mark.parametrize("pattern", [None, blocks((2, 2))], ids=["filters", "blocks"])
def test_proximal_steps_are_the_same_in_any_unit(rng, scale, pattern):
    """Exactly 0 below the level, the rest shrunk by the same factor; where nothing is asked for nothing changes."""
    weights = jnp.asarray(rng.normal(size=(4, 5)) * np.array([0.02, 0.5, 1, 2, 0]), jnp.float32)
    for make, level in ((lambda level: proximal_group_lasso(level, 1.0, pattern), 0.3), (proximal_l1_at, 0.3)):
        wanted, _ = stepped(make(level), weights, jnp.zeros((4, 5)))
        got, _ = stepped(make(level * scale), weights * scale, jnp.zeros((4, 5)))
        np.testing.assert_allclose(np.float64(got) / scale, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got == 0, wanted == 0)
        assert not stepped(make(0.1), weights * jnp.float32(1e-20), jnp.zeros((4, 5)))[0].any()
        np.testing.assert_array_equal(stepped(make(0.0), weights * scale, jnp.zeros((4, 5)))[0], weights * scale)


def proximal_l1_at(level):
    return proximal_l1(level, 1.0)


def test_a_proximal_step_follows_the_learning_rates_schedule():
    tx, params = proximal_l1(1.0, optax.piecewise_constant_schedule(0.5, {1: 0.5})), jnp.array([2.0])
    params, state = stepped(tx, params, jnp.zeros(1))
    assert params.tolist() == [1.5]
    params, state = stepped(tx, params, jnp.zeros(1), state)
    assert params.tolist() == [1.25]


def test_lasso_finds_the_support_of_a_sparse_regression(rng):
    """Against coordinate descent, to convergence."""
    inputs = rng.normal(size=(60, 12)) / np.sqrt(60)
    truth = np.where(np.arange(12) % 4 == 0, 3.0, 0.0)
    targets, strength = inputs @ truth, 0.3
    tx = optax.chain(optax.sgd(0.3), proximal_l1(strength, 0.3))

    def body(carry, _):
        params, state = carry
        grads = jax.grad(lambda w: jnp.sum((jnp.asarray(inputs) @ w - jnp.asarray(targets)) ** 2) / 2)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros(12, jnp.float32)
    (found, _), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, length=400))((start, tx.init(start)))
    wanted = np.zeros(12)
    for _ in range(400):
        for i in range(12):
            rest = inputs[:, i] @ (targets - inputs @ wanted + inputs[:, i] * wanted[i])
            wanted[i] = np.sign(rest) * max(abs(rest) - strength, 0) / (inputs[:, i] @ inputs[:, i])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(found) == 0, wanted == 0)


def test_proximal_arguments_that_mean_nothing_are_refused():
    with pytest.raises(ArgumentError, match="strength must be at least 0"):
        proximal_l1(-1.0, 0.1)
    with pytest.raises(ArgumentError, match="unstructured has no units of several weights"):
        proximal_group_lasso(1.0, 0.1, unstructured())
    with pytest.raises(ArgumentError, match=r"call tx.update\(grads, opt_state, params\)"):
        proximal_l1(1.0, 0.1).update(jnp.ones(1), proximal_l1(1.0, 0.1).init(jnp.ones(1)))
    tx = proximal_group_lasso(1.0, 0.1, blocks((2, 2)))
    with pytest.raises(ArgumentError, match="does not fit 'w' of shape"):
        tx.update({"w": jnp.ones(1)}, tx.init(None), {"w": jnp.ones(1)})


@pytest.mark.parametrize(
    "inner", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.1, weight_decay=0.5)], ids=["sgd", "adamw"]
)
def test_a_masked_optimizer_leaves_pruned_weights_and_their_past_alone(rng, inner):
    draw = lambda: {"b": jnp.asarray(rng.normal(size=6), jnp.float32), "n": {"w": jnp.asarray(rng.normal(size=(6, 4)))}}  # noqa: E731
    recipe = jc.partition([("n/w", jc.prune.magnitude(0.5))])
    params = draw()
    state = recipe.init(params)
    masks = jc.prune.kept(recipe, params, state)
    assert masks["b"].all()
    assert int(masks["n"]["w"].sum()) == 12
    tx, params = jc.prune.masked_optimizer(inner), recipe.apply(params, state)
    opt_state, plain_state, plain = tx.init(params), inner.init(params), params
    for _ in range(3):
        grads = draw()
        updates, opt_state = tx.update(grads, opt_state, params, masks=masks)
        params = optax.apply_updates(params, updates)
        updates, plain_state = inner.update(grads, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    assert not params["n"]["w"][~masks["n"]["w"]].any()
    np.testing.assert_allclose(params["n"]["w"][masks["n"]["w"]], plain["n"]["w"][masks["n"]["w"]], rtol=1e-6)
    np.testing.assert_allclose(params["b"], plain["b"], rtol=1e-6)
    held = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.shape == (6, 4)]
    assert held
    for leaf in held:
        assert not leaf[~masks["n"]["w"]].any()
        assert leaf[masks["n"]["w"]].all()


def test_a_masked_optimizer_needs_masks():
    tx = jc.prune.masked_optimizer(optax.sgd(0.1))
    with pytest.raises(ArgumentError, match=r"masks = jc.prune.kept\(recipe, params, state\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_pruned_weights_decay_and_may_come_back():
    prune, params = jc.prune.magnitude(0.5), jnp.array([4.0, 3.0, 2.0, 1.0])
    state = prune.init(params)
    params = decay_pruned(params, jc.prune.kept(prune, params, state), 0.5)
    assert params.tolist() == [4.0, 3.0, 1.0, 0.5]
    grown = params + jnp.array([0.0, -2.5, 1.0, 0.0])
    assert prune.update(grown, state, 1).tolist() == [True, False, True, False]
    with pytest.raises(ArgumentError, match="factor must lie in"):
        decay_pruned(params, state, 1.5)
