"""Collectives under vmap: shrinking a function that calls them equals masking it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc

AXIS = "devices"
X = jnp.sin(jnp.arange(24.0)).reshape(2, 3, 4)


def whole(h):
    return lax.all_gather(h, AXIS).mean(0)


def tiled(h):
    return lax.all_gather(h, AXIS, axis=0, tiled=True)[:3]


def swapped(h):
    return lax.ppermute(h, AXIS, [(0, 1), (1, 0)])


def scattered(h):
    return lax.psum_scatter(h[:2], AXIS, scatter_dimension=0, tiled=True) + h


def exchanged(h):
    return lax.all_to_all(h[:2], AXIS, 0, 0, tiled=True)[:1] + h


def numbered(h):
    return h * (1 + lax.axis_index(AXIS))


COLLECTIVES = {
    "psum": lambda h: h - lax.psum(h.mean(0), AXIS),
    "pmean": lambda h: h - lax.pmean(h.mean(0), AXIS),
    "pmax": lambda h: h - lax.pmax(h, AXIS),
    "pmin": lambda h: h * lax.pmin(h, AXIS),
    "all_gather": whole,
    "all_gather_tiled": tiled,
    "ppermute": swapped,
    "psum_scatter": scattered,
    "all_to_all": exchanged,
    "axis_index": numbered,
    "several": lambda h: h - sum(lax.psum((h, 2 * h), AXIS)),
}


def params_of(seed=0):
    up, down = jax.random.normal(jax.random.key(seed), (4, 6)), jnp.sin(jnp.arange(12.0)).reshape(6, 2)
    return {"up": up, "down": down}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_shrinking_equals_masking_under_vmap(name):
    def network(params, x):
        one = lambda x: COLLECTIVES[name](jax.nn.relu(x @ params["up"])) @ params["down"]  # noqa: E731
        return jax.vmap(one, axis_name=AXIS)(x)

    params = params_of()
    found = jc.trace.groups(network, params, X)
    keep = {"up": np.array([True, False, True, True, False, True])}
    small_fn, small = jc.rewrite.shrink(network, params, X, keep=keep)
    assert small["up"].shape == (4, 4)
    masked = network(jc.rewrite.mask(found, params, keep), X)
    np.testing.assert_allclose(small_fn(small, X), masked, atol=1e-5)


def test_channels_that_are_summed_over_by_a_collective_stay():
    def network(params, x):
        one = lambda column, x: lax.psum(jnp.exp(x @ column), AXIS)  # noqa: E731
        return jax.vmap(one, in_axes=(1, None), axis_name=AXIS)(params["up"], x[0]) @ jnp.ones((3, 1))

    found = jc.trace.groups(network, {"up": jnp.ones((4, 6))}, X)
    assert not found.free
    assert "up" in str(found)
