"""Channel pruning for any tree: the groups are those of a function that multiplies by every matrix in it."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxcomp as jc
from jaxcomp.core.leaves import is_real


def product(params: Any) -> jax.Array:
    """A sum over the last axis of each matrix, the vectors of its length added first."""
    real = [leaf for leaf in jax.tree.leaves(params) if is_real(leaf) and leaf.size]
    total = jnp.zeros(())
    for matrix in (leaf for leaf in real if leaf.ndim > 1):
        made = jnp.ones(matrix.size // matrix.shape[-1], matrix.dtype) @ matrix.reshape(-1, matrix.shape[-1])
        vectors = [leaf for leaf in real if leaf.shape == made.shape]
        total += jnp.tanh(sum(vectors, made)).sum()
    return total


def channels(*args: Any, **options: Any) -> jc.Compressor:
    """``jc.prune.channels`` of the groups of :func:`product`, found for each tree that it meets."""
    made: dict[Any, jc.Compressor] = {}

    def of(params: Any) -> jc.Compressor:
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        leaves, tree = jax.tree.flatten(shapes)
        key = tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key not in made:
            made[key] = jc.prune.channels(jc.trace.groups(product, shapes), *args, **options)
        return made[key]

    return jc.Compressor(
        lambda params: of(params).init(params),
        lambda params, state, step, **extra: of(params).update(params, state, step, **extra),
        lambda params, state: of(params).apply(params, state),
        lambda params, state, step: of(params).describe(params, state, step),
    )
