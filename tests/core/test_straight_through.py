"""The straight-through estimator returns the forward value to the bit, and the other's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.straight_through import pass_through


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_value_is_exact_on_a_million_pairs(rng, dtype, wrap):
    """The usual ``backward + stop_gradient(forward - backward)`` fails here."""
    spread = 10.0 ** rng.uniform(-4, 4, (2, 10**6))
    forward, backward = jnp.asarray(rng.normal(size=(2, 10**6)) * spread, dtype)
    np.testing.assert_array_equal(np.asarray(wrap(pass_through)(forward, backward)), np.asarray(forward))
    usual = wrap(lambda f, b: b + jax.lax.stop_gradient(f - b))(forward, backward)
    assert np.mean(np.asarray(usual != forward)) > 0.01


def test_the_gradient_is_the_other_values():
    forward, backward = jnp.array([3.0, -1.0]), jnp.array([0.5, 2.0])
    value, (to_forward, to_backward) = jax.value_and_grad(
        lambda f, b: jnp.sum(jnp.array([10.0, 20.0]) * pass_through(f, jnp.square(b))), argnums=(0, 1)
    )(forward, backward)
    assert value == 10.0
    assert to_forward.tolist() == [0.0, 0.0]
    assert to_backward.tolist() == [10.0, 80.0]
