"""Typed random keys wherever a function may hold them: constants, parameters, inputs, carried by loops, returned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.posttrain import equalize
from jaxcomp.rewrite import choose, fold_batch_norm, fold_weights, mask, remove_dead, shrink
from jaxcomp.trace import groups, sites

KEYS = jax.random.split(jax.random.key(3), 2)
PARAMS = {
    "in": jax.random.normal(jax.random.key(0), (4, 6)),
    "w": jax.random.normal(jax.random.key(0), (2, 6, 6)),
    "out": jax.random.normal(jax.random.key(1), (6, 3)),
    "dropout": {"key": jax.random.key(7), "count": jnp.uint32(0)},  # as NNX keeps it
}
INPUTS = jax.random.normal(jax.random.key(2), (4, 4)), jax.random.key(5)


def dropping(p: Any, x: jax.Array, given: jax.Array) -> Any:
    def layer(carry: Any, each: Any) -> Any:
        (h, key), (w, own) = carry, each
        key, now = jax.random.split(key)
        return (_dropped(_dropped(jax.nn.relu(h @ w), now), own), key), None

    def again(state: Any) -> Any:
        i, h, key = state
        return i + 1, _dropped(h, key), jax.random.fold_in(key, i)

    (h, _), _ = jax.lax.scan(layer, (x @ p["in"], KEYS[0]), (p["w"], KEYS))
    _, h, key = jax.lax.while_loop(lambda state: state[0] < 2, again, (0, h, given))
    key = jax.lax.cond(x.sum() > 0, lambda: key, lambda: KEYS[1])
    h = _dropped(h, jnp.where(x[0, 0] > 0, key, p["dropout"]["key"]))
    new, _ = jax.random.split(p["dropout"]["key"])
    return h @ p["out"], {"dropout": {"key": new, "count": p["dropout"]["count"] + 1}}


def _dropped(h: jax.Array, key: jax.Array) -> jax.Array:
    return h * jax.random.bernoulli(key, 0.8, h.shape)


def test_they_are_passed_on() -> None:
    found = groups(dropping, PARAMS, *INPUTS)
    assert [group.size for group in found] == [6]
    assert len(sites(dropping, PARAMS, *INPUTS).rows) == 3
    new, small = shrink(dropping, PARAMS, *INPUTS, keep=choose(0.5))
    _same(new(small, *INPUTS), dropping(mask(found, PARAMS, new.keep), *INPUTS))
    assert small["out"].shape == (3, 3)


@pytest.mark.parametrize("rewrite", [remove_dead, fold_weights, fold_batch_norm, equalize])
def test_what_changes_no_result_leaves_them(rewrite: Any) -> None:
    new, changed = rewrite(dropping, PARAMS, *INPUTS) if rewrite is not equalize else _equalized()
    _same(new(changed, *INPUTS), dropping(PARAMS, *INPUTS))


def _equalized() -> tuple[Any, Any]:
    return dropping, equalize(dropping, PARAMS, *INPUTS, scheme=None)[0]


def _same(one: Any, other: Any) -> None:
    (result, state), (expected, wanted) = one, other
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(*(jax.random.key_data(s["dropout"]["key"]) for s in (state, wanted)))
