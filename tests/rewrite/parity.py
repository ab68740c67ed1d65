"""The parity law: the shrunk function computes what the masked one computes, and so do their gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.rewrite import choose, mask, shrink
from jaxcomp.rewrite.channels.shrink import cut
from jaxcomp.trace import groups

TOLERANCE = 1e-5

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""Compiled in a hurry: for functions that run once."""


def randomize(params: Any, seed: int = 0) -> Any:
    """Random values in place of initial ones (zero biases prove nothing); variances positive."""
    rng = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        values = 0.5 * rng.standard_normal(leaf.shape)
        return jnp.asarray(np.abs(values) + 0.5 if path_string(path).endswith("var") else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def distance(a: Any, b: Any) -> float:
    """The largest difference between two trees, relative to the largest value in the first."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs if x.dtype != jax.dtypes.float0]
    assert all(x.shape == y.shape for x, y in pairs)
    assert all(np.isfinite(x).all() for x, _ in pairs), "random values that overflow prove nothing"
    differences = [np.max(np.abs(x - y), initial=0) for x, y in pairs]
    return float(np.max(differences) / np.max([np.max(np.abs(x), initial=0) for x, _ in pairs]))


def _loss(apply_fn: Callable[..., Any], gradients: bool) -> Callable[..., Any]:
    def loss(params: Any, *inputs: Any) -> Any:
        out = apply_fn(params, *inputs)
        first = jax.tree.leaves(out)[0]
        weights = jnp.cos(jnp.arange(first.size, dtype=jnp.float32)).reshape(first.shape)
        return (first * weights).sum() + (first**2).mean(), out

    if gradients:
        return jax.value_and_grad(loss, has_aux=True, allow_int=True)
    return lambda params, *inputs: (loss(params, *inputs), params)


def worst(
    apply_fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    lenient: bool = False,
    seed: int = 0,
    gradients: bool = True,
    fraction: float = 0.4,
) -> float:
    """Cuts a random part of every group; the largest relative error of results, new states and gradients."""
    found = groups(apply_fn, params, *inputs, lenient=lenient)
    assert len(found)
    keep = choose(fraction, "random", seed=seed)(found, params)
    new, small = shrink(apply_fn, params, *inputs, keep=keep, lenient=lenient)
    masked = mask(found, params, keep)
    masks = found.masks(keep)
    assert masks

    @quick
    def both(masked: Any, small: Any, *inputs: Any) -> Any:
        run = [_loss(apply_fn, gradients), _loss(new, gradients)]
        return run[0](masked, *inputs), run[1](small, *inputs)

    ((_, out), grads), ((_, out_small), grads_small) = both(masked, small, *inputs)
    forward = max(map(distance, jax.tree.leaves(_cut_states(out, masks)), jax.tree.leaves(out_small)))
    return max(forward, distance(cut(grads, masks), grads_small))


def _cut_states(out: Any, masks: Any) -> Any:
    """Results, of which new states are cut as their parameters were."""
    own = {
        (path, axis): kept
        for path in named_leaves(out)
        for (name, axis), kept in masks.items()
        if path.endswith(name) or name.endswith("/" + path.partition("/")[2])
    }
    return cut(out, own)
