"""Learned thresholds: the paper's function and gradients, exact values of what is kept, and a step that trains both."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import learned_threshold


def view(weights, s, shrink=False):
    return learned_threshold(0.0, shrink=shrink).apply(weights, jc.Learned(s))


def test_it_is_the_soft_thresholds_support_and_gradient(rng):
    weights, s = rng.normal(size=40), -0.7
    level = 1 / (1 + np.exp(-s))
    soft = np.sign(weights) * np.maximum(np.abs(weights) - level, 0)
    given = jnp.asarray(weights, jnp.float32), jnp.float32(s)
    np.testing.assert_allclose(view(*given, shrink=True), soft, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(view(*given), np.where(soft != 0, np.float32(weights), 0))
    for shrink in (False, True):
        slopes = jax.grad(lambda w, s, shrink=shrink: jnp.sum(view(w, s, shrink) * jnp.arange(40)), (0, 1))(*given)
        np.testing.assert_array_equal(slopes[0], np.where(soft != 0, np.arange(40), 0))
        wanted = -(np.arange(40) * np.sign(soft)).sum() * level * (1 - level)
        np.testing.assert_allclose(slopes[1], wanted, rtol=1e-4)


def test_what_is_not_finite_is_kept_where_it_shows():
    np.testing.assert_array_equal(view(jnp.array([jnp.nan, -jnp.inf, 0.1]), jnp.float32(0)), [np.nan, -np.inf, 0])


def test_the_optax_adaptor_refuses_what_it_cannot_train():
    tx = jc.optim.compress(optax.sgd(0.1), jc.partition([("w", learned_threshold())]))
    with pytest.raises(ArgumentError, match=r"learns values \(0/w\).*jc.learned\(state\)"):
        tx.init({"w": jnp.ones(2)})


def test_describe_tells_the_threshold():
    params = {"w": jnp.ones(2), "count": jnp.array(3)}
    pruner = learned_threshold(0.0)
    notes = pruner.describe(params, pruner.init(params), 0)
    assert notes == {
        "w": jc.Note(remark="threshold learned, now 0.5"),
        "count": jc.Note(skipped=jc.core.leaves.NOT_REAL),
    }


def test_a_start_that_is_not_finite_is_refused():
    with pytest.raises(ArgumentError, match="start must be a finite number"):
        learned_threshold(float("-inf"))


def test_it_can_be_made_inside_a_compiled_function():
    made = jax.jit(lambda w: learned_threshold(0.0).apply(w, learned_threshold(0.0).init(w)))
    np.testing.assert_array_equal(made(jnp.array([0.4, -0.75])), [0, -0.75])
