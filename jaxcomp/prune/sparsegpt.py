"""SparseGPT: one sweep over a layer's inputs, for layers too large for an exact search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.quadratic import inverse_factor, sweep
from jaxcomp.prune.reconstruct import NofM, keep_of_layer, keep_pattern


def sparsegpt(
    weight: Array, moment: Array, keep: int = 0, *, pattern: NofM | None = None, block: int = 128
) -> tuple[Array, Array]:
    r"""Prunes row after row of the reduction; those that follow make up for each, those before are fixed.

    A mask is chosen for a block of rows by :math:`w_{io}^2 / U_{ii}^2`, :math:`H^{-1} = U^\top U`; the rest is
    :func:`jaxcomp.core.quadratic.sweep`.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`damped`).
      keep: how many weights are kept in all; every block keeps its share.
      pattern: ``(n, m)``: that, instead of ``keep``.
      block: rows whose mask is chosen together.

    Returns:
      The mask, True = kept, and the weights, zeros outside of it.

    Raises:
      ArgumentError: for a block of no rows.

    Reference: Frantar and Alistarh, SparseGPT, 2023.
    """
    if block < 1:
        raise ArgumentError(f"block must be at least 1 row, got {block}")
    size = weight.shape[1]
    block = pattern[1] if pattern else min(block, size)
    ends = np.minimum(np.arange(0, size + block, block), size)
    shares = np.diff(np.round(keep / size * ends).astype(np.uint32))
    return _sparsegpt(weight, moment, jnp.asarray(shares), pattern, block)


@functools.partial(jax.jit, static_argnames=("pattern", "block"))
def _sparsegpt(weight: Array, moment: Array, shares: Array, pattern: NofM | None, block: int) -> tuple[Array, Array]:
    size = weight.shape[1]

    def begin(b: Array, rows: Array, diagonal: Array) -> Array:
        there = b * block + jnp.arange(block) < size
        scores = jnp.where(there[:, None], jnp.square(rows / diagonal), -1)
        return keep_pattern(scores, pattern) if pattern else keep_of_layer(scores, shares[b])

    upper = inverse_factor(moment)
    new, kept = sweep(weight, upper, block, begin, lambda kept, i, row: jnp.where(kept[:, i], row, 0))
    mask = jnp.moveaxis(kept, 0, 1).reshape(len(weight), -1, weight.shape[2])
    return mask[:, :size], new
