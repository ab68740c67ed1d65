"""Axes of size 0, a layer that another tool emptied: nothing of it is a channel, and the rest is as it was."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.pack import load, save
from jaxcomp.posttrain import equalize, refit, sparsify  # fmt: skip
from jaxcomp.prune import channels, group_lasso
from jaxcomp.rewrite import (  # fmt: skip
    Scheme,
    choose,
    factorize,
    fold_batch_norm,
    fold_weights,
    importance,
    mask,
    quantize,
    remove_dead,
    shrink,
)
from jaxcomp.trace import groups, sites
from tests.rewrite.folding.test_weights import of
from tests.rewrite.lowrank.test_factors import conv, normal

X = normal(4, 6, seed=1)


def beside(p: Any, x: jax.Array) -> jax.Array:
    """A dead branch of every kind beside one that lives; its norm and its bias are empty, too."""
    dead = (x @ p["in"] - p["mean"]) * p["scale"] + p["bias"]
    heads = (x @ p["query"]).reshape(len(x), 0, 2).reshape(len(x), -1)
    scanned, _ = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w[0]) @ w[1], None), x, (p["up"], p["down"]))
    both = jnp.concatenate([jax.nn.relu(dead), heads, jax.nn.relu(scanned @ p["wide"])], axis=-1)
    image = conv((1, 1), "SAME")({"w": p["kernel"]}, x.reshape(len(x), 2, 3, 1)).reshape(len(x), -1)
    return both @ p["out"] + image.sum(1, keepdims=True) + p["table"].sum(0)


PARAMS = {
    **{name: jnp.ones(0) for name in ("mean", "scale", "bias")},
    "in": jnp.ones((6, 0)), "query": jnp.ones((6, 0)), "kernel": jnp.ones((3, 3, 1, 0)), "table": jnp.ones((0, 3)),
    "up": jnp.ones((2, 6, 0)), "down": jnp.ones((2, 0, 6)), **of(wide=(6, 8), out=(8, 3)),
}  # fmt: skip


def test_they_are_no_channels() -> None:
    found = groups(beside, PARAMS, X)
    assert {(group.name, group.size) for group in found} == {("wide", 8)}
    assert all(0 not in found.shapes[m.path] for group in found for m in group.members)
    assert sites(beside, PARAMS, X).macs == 4 * (6 * 8 + 8 * 3)
    for score in ("l2", "fpgm", "lamp", "norm_scale"):
        assert np.isfinite(importance(found, PARAMS, score)["wide"]).all()
    prune = channels(found, 0.5)
    view = prune.apply(PARAMS, prune.init(PARAMS))
    assert np.isfinite(group_lasso(found, view))


REWRITES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "remove_dead": lambda: remove_dead(beside, PARAMS, X),
    "fold_batch_norm": lambda: fold_batch_norm(beside, PARAMS, X),
    "fold_weights": lambda: fold_weights(beside, PARAMS, X),
    "factorize": lambda: factorize(beside, PARAMS, X, energy=1.0),
    "equalize": lambda: (beside, equalize(beside, PARAMS, X, scheme=None).params),
    **{f"quantize {bits}": lambda bits=bits: quantize(beside, PARAMS, X, scheme=Scheme(bits, inputs=None))
       for bits in (8, 2, "nf4")},
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITES)
def test_rewrites_leave_them(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new, changed = REWRITES[name]()
        assert "in" in changed
        assert changed["in"].shape == (6, 0)
        loose = 1.0 if "quantize" in name else 1e-5
        np.testing.assert_allclose(new(changed, X), beside(PARAMS, X), atol=loose * 10, rtol=loose)


def test_shrunk_refitted_sparse_and_saved(tmp_path: Any) -> None:
    new, small = shrink(beside, PARAMS, X, keep=choose(0.5))
    np.testing.assert_allclose(new(small, X), beside(mask(groups(beside, PARAMS, X), PARAMS, new.keep), X), rtol=1e-5)
    again = refit(beside, PARAMS, [(X,)], groups(beside, PARAMS, X), keep=new.keep)
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, PARAMS)
    assert np.mean(sparsify(beside, PARAMS, [(X,)], 0.5, method="magnitude").params["wide"] == 0) == 0.5
    save(tmp_path / "zero.jcz", small)
    loaded, _ = load(tmp_path / "zero.jcz", like=small)
    jax.tree.map(np.testing.assert_array_equal, loaded, small)
