"""The pruner puts its parts together: nested masks, steps between rankings, cycles, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune import alternating, one_shot, prune, random_growth, taylor


@pytest.fixture
def moved(rng):
    """Weights whose order changes from step to step."""
    return [{"w": jnp.asarray(rng.normal(size=(6, 10)), jnp.float32)} for _ in range(5)]


@pytest.mark.parametrize("distribution", ["uniform", pytest.param("global", marks=pytest.mark.exhaustive)])
def test_nested_masks_nest_whatever_the_weights_do(moved, distribution):
    pruner = prune(optax.linear_schedule(0.0, 0.8, 4), nested=True, distribution=distribution)
    update, state = jax.jit(pruner.update), pruner.init(moved[0])
    for i, params in enumerate(moved[1:], 1):
        new = update(params, state, i)
        assert (new["w"] <= state["w"]).all()
        assert int(new["w"].sum()) == 60 - round(0.2 * i * 60)
        state = new
    assert update(moved[4], state, 0)["w"].all()  # step 0 starts afresh


def test_masks_that_need_not_nest_follow_the_weights(moved):
    pruner = prune(optax.linear_schedule(0.0, 0.8, 4))
    first = pruner.update(moved[1], None, 1)
    assert not (pruner.update(moved[2], first, 2)["w"] <= first["w"]).all()


def test_a_schedule_that_falls_is_refused_where_masks_nest(moved):
    with pytest.raises(ArgumentError, match=r"the sparsity schedule falls to 0 at step 1, from 0.5 at step 0"):
        prune(lambda step: 0.5 if step < 1 else 0.0, nested=True)
    with pytest.raises(ArgumentError, match="falls"):
        prune(alternating(0.9, 100, 100), nested=True)
    late = prune(lambda step: 0.5 if step != 37 else 0.1, nested=True)  # between the probes
    state = late.init(moved[0])
    with pytest.raises(ArgumentError, match=r"falls to 0.1 at step 37, from 0.5 at step 36"):
        late.update(moved[1], state, 37)


def test_alternating_phases_are_dense_and_sparse_in_turn(moved):
    schedule = alternating(0.9, 3, 2, begin=1, end=9)
    wanted = [0, 0, 0, 0, 0.9, 0.9, 0, 0, 0, 0.9, 0.9, 0.9, 0.9]
    assert [round(float(schedule(step)), 3) for step in range(13)] == wanted
    pruner = prune(alternating(0.5, 1, 1))
    update = jax.jit(pruner.update)
    kept = [int(update(moved[0], pruner.init(moved[0]), step)["w"].sum()) for step in range(4)]
    assert kept == [60, 30, 60, 30]


@pytest.mark.parametrize("make", [lambda: alternating(1.0, 1, 1), lambda: one_shot(-0.1, 0)])
def test_schedules_of_no_fraction_are_refused(make):
    with pytest.raises(ArgumentError, match="sparsity must be a fraction of zeros"):
        make()
    with pytest.raises(ArgumentError, match="phases need at least one step each"):
        alternating(0.5, 0, 1)


def test_a_score_gathers_between_rankings(moved):
    pruner = prune(0.5, "movement", every=3)
    params, state = moved[0], pruner.init(moved[0])
    update = jax.jit(lambda state, i, grads: pruner.update(params, state, i, grads=grads))
    for i, grads in enumerate(moved[1:], 1):
        new = update(state, i, grads)
        assert (new.memory["w"] != state.memory["w"]).any()
        assert (new.mask["w"] != state.mask["w"]).any() == (i == 3)
        state = new


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"score": "size"},
            "score must be one of magnitude, random, taylor, snip, movement, fisher, wanda, or a value",
        ),
        ({"distribution": "layer"}, "distribution must be one of uniform, global, erk, lamp, per_output, or a value"),
        ({"score": taylor}, r"or a value of jaxcomp.prune.Score; got <function taylor"),
        ({"regrow": random_growth}, r"regrow must be one of set, rigl, or a value of jaxcomp.prune.Regrow"),
        ({"pattern": (2, 4)}, r"pattern must be one of jaxcomp.prune: nm\(2, 4\), .* got \(2, 4\)"),
        ({"sparsity": None}, r"sparsity must be a fraction of zeros in \[0, 1\), got None"),
        ({"every": 0}, "every= needs at least 1 step"),
        ({"minimum": -1}, "minimum= at least 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        prune(**{"sparsity": 0.5, **arguments})


def test_a_state_keeps_its_structure_beside_leaves_that_are_left_out():
    params = {"count": jnp.array(3), "w": jnp.ones((4, 2)), "none": None}
    pruner = prune(0.5, "movement")
    state = pruner.init(params)
    new = pruner.update(params, state, 1, grads={"count": None, "w": jnp.ones((4, 2)), "none": None})
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert pruner.apply(params, new)["count"] is params["count"]
    np.testing.assert_array_equal(new.memory["w"], -np.ones((4, 2)))
