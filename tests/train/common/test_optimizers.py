"""Optimizers by optax's names: what decays, how rates rise and fall, and what is refused."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.common import optimizers
from train.common.errors import UserError
from train.common.limits import OPTIMIZERS

PARAMS = {"Dense_0": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(3)}, "positions": jnp.full((1, 4), 3.0)}
TRAINED = (PARAMS, {"threshold": jnp.ones((2, 2))})


def change(tx: Any, grads: Any, steps: int = 1) -> Any:
    state, trained = tx.init(TRAINED), TRAINED
    for _ in range(steps):
        updates, state = tx.update(grads, state, trained)
        trained = optax.apply_updates(trained, updates)
    return trained


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_moves_against_the_gradient_and_decays_kernels(name: str) -> None:
    params, _ = change(optimizers.make(name, 0.1, 10, 0.0), jax.tree.map(jnp.ones_like, TRAINED))
    moved = jax.tree.map(lambda after, before: bool((after < before).all()), params, PARAMS)
    assert jax.tree.leaves(moved) == [True] * 3


def test_weights_decay_but_vectors_and_what_is_named() -> None:
    zeros = jax.tree.map(jnp.zeros_like, TRAINED)
    for name in ("sgd", "adamw"):  # by a transformation before, and by optax's own
        params, learned = change(optimizers.make(name, 0.1, 10, 0.5, undecayed="pos.*"), zeros)
        assert (params["Dense_0"]["kernel"] < 2).all()
        assert (params["Dense_0"]["bias"] == 1).all()
        assert (params["positions"] == 3).all()
        assert (learned["threshold"] < 1).all()  # of more than one axis, as ever
        assert (change(optimizers.make(name, 0.1, 10, 0.5), zeros)[0]["positions"] < 3).all()


def test_the_rate_rises_straight_and_falls_as_a_cosine() -> None:
    rate = optimizers.schedule(0.4, 50, 10)
    for step in range(51):
        up, down = 0.4 * step / 10, 0.2 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert float(rate(step)) == pytest.approx(up if step < 10 else down, abs=1e-6)
    assert float(optimizers.schedule(0.4, 50)(0)) == pytest.approx(0.4)


def test_paths_that_do_not_decay_are_a_regular_expression() -> None:
    with pytest.raises(
        UserError, match=r"--config.undecayed='\*\.token' is no regular expression of paths: nothing to"
    ):
        optimizers.make("adamw", 0.1, 10, 0.5, undecayed="*.token")


def test_gradients_are_clipped_together() -> None:
    grads = jax.tree.map(lambda leaf: 3 * jnp.ones_like(leaf), TRAINED)
    norm = 3 * math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(TRAINED)))
    tx = optimizers.make("sgd", 0.1, 1000, 0.0, clip=0.5, options={"momentum": None})
    after = change(tx, grads)[0]["positions"]
    np.testing.assert_allclose(after, 3 - 0.1 * 3 * 0.5 / norm, rtol=1e-5)


def test_options_go_to_optax_or_are_refused() -> None:
    one, other = (optimizers.make("adamw", 0.1, 10, 0.0, options=own) for own in ({}, {"b1": 0.0}))
    grads = [jax.tree.map(lambda leaf, s=sign: s * jnp.ones_like(leaf), TRAINED) for sign in (1, -1)]

    def twice(tx: Any) -> Any:
        state = tx.init(TRAINED)
        for own in grads:
            updates, state = tx.update(own, state, TRAINED)
        return float(updates[0]["positions"][0, 0])

    assert twice(one) != pytest.approx(twice(other))
    with pytest.raises(UserError, match=r"optax.adamw has no beta1; it has: learning_rate, b1"):
        optimizers.make("adamw", 0.1, 10, 0.0, options={"beta1": 0.9})
