"""Complex weights: the modulus counts, and a turn of the phase changes no decision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.observe import fisher_diagonal
from jaxcomp.prune import channels, group_lasso
from jaxcomp.prune.saliency import NAMES, SCORES
from jaxcomp.rewrite import choose, importance, mask, shrink
from jaxcomp.trace import groups

KEYS = jax.random.split(jax.random.key(0), 4)
REAL = {
    "in": jax.random.normal(KEYS[0], (5, 6)),
    "bias": jax.random.normal(KEYS[1], (6,)),
    "out": jax.random.normal(KEYS[2], (6, 3)),
}
TURNED = REAL | {name: REAL[name] * jnp.exp(1j * jnp.arange(1, 7.0)) for name in ("in", "bias")}
X = jax.random.normal(KEYS[3], (4, 5))


def spectral(p: Any, x: jax.Array) -> jax.Array:
    return jnp.abs(x @ p["in"] + p["bias"]) @ p["out"]


def _gradients(params: Any) -> Any:
    return jax.grad(lambda p: (spectral(p, X) ** 2).sum())(params)


FOUND = {name: groups(spectral, params, X) for name, params in (("real", REAL), ("turned", TURNED))}


@pytest.mark.parametrize("score", [*NAMES, "activation", "apoz"])
def test_a_turn_of_the_phase_changes_no_score(score: str) -> None:
    found = []
    for name, params in (("real", REAL), ("turned", TURNED)):
        options: dict[str, Any] = {"batches": [(X,)]} if score in ("activation", "apoz") else {}
        needs = SCORES[score].needs if score in SCORES else ""
        options |= {"grads": _gradients(params)} if needs == "grads" else {}
        options |= {"curvature": fisher_diagonal([_gradients(params)])} if needs == "curvature" else {}
        ((_, own),) = importance(FOUND[name], params, score, **options).items()
        found.append(own)
    if score == "fpgm":  # which measures between channels: turned ones are farther apart
        assert np.isfinite(found[1]).all()
    else:
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


@pytest.mark.parametrize("score", ["l2", "taylor"])
def test_the_view_and_the_rewrite_cut_the_same(score: str) -> None:
    prune = channels(FOUND["turned"], 0.5, score=score)
    state = prune.update(TURNED, prune.init(TURNED), 1, grads=_gradients(TURNED))
    options = {"grads": _gradients(TURNED)} if score == "taylor" else {}
    new, small = shrink(spectral, TURNED, X, keep=choose(0.5, score, **options))
    ((name, kept),) = new.keep.items()
    if score == "l2":
        assert np.array_equal(state[name], kept)
    assert small["in"].dtype == jnp.complex64
    np.testing.assert_allclose(
        new(small, X), spectral(mask(FOUND["turned"], TURNED, new.keep), X), rtol=1e-5, atol=1e-6
    )
    assert jax.tree.map(lambda leaf: leaf.dtype, prune.apply(TURNED, state)) == jax.tree.map(lambda p: p.dtype, TURNED)


def test_group_lasso_and_its_slope() -> None:
    (one, slope), (two, other) = (jax.value_and_grad(lambda p, f=FOUND[n]: group_lasso(f, p))(params)
                                  for n, params in (("real", REAL), ("turned", TURNED)))  # fmt: skip
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(jnp.abs(slope["in"]), jnp.abs(other["in"]), rtol=1e-5)
