"""Learned values are found in any state, and put back."""

import jax
import jax.numpy as jnp
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError


def test_values_come_out_of_any_recipe_and_go_back():
    recipe = jc.partition(
        [(".*/kernel", jc.chain(jc.prune.magnitude(0.5), jc.prune.learned_threshold(-2.0))), (".*", jc.identity())]
    )
    params = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "b": {"kernel": jnp.ones(3)}}
    state = recipe.init(params)
    values = jc.learned(state)
    assert {path: float(value) for path, value in values.items()} == {"0/1/a/kernel": -2.0, "0/1/b/kernel": -2.0}
    changed = jc.with_learned(state, {path: value + 5 for path, value in values.items()})
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert set(map(float, jc.learned(changed).values())) == {3.0}
    assert not recipe.apply(params, changed)["b"]["kernel"].all()
    assert jc.learned(recipe.update(params, changed, 3)) == jc.learned(changed)


def test_a_state_without_learned_values_has_none():
    assert jc.learned((jnp.ones(2), {"mask": jnp.array(True)})) == {}
    assert jc.with_learned((1, 2), {}) == (1, 2)


@pytest.mark.parametrize(("values", "message"), [({}, "'w' is missing"), ({"w": 1, "v": 2}, "'v' is not in the state")])
def test_other_values_than_the_states_are_refused(values, message):
    with pytest.raises(ArgumentError, match=message):
        jc.with_learned({"w": jc.Learned(0.0)}, values)
