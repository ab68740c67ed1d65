"""SparseGPT: one sweep over a layer's inputs, for layers too large for an exact search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.prune.reconstruct import NofM, keep_of_layer, keep_pattern


def sparsegpt(
    weight: Array, moment: Array, keep: int = 0, *, pattern: NofM | None = None, block: int = 128
) -> tuple[Array, Array]:
    r"""Prunes row after row of the reduction; those that follow make up for each, those before are fixed.

    With :math:`H^{-1} = U^\top U`, U upper triangular: a mask is chosen for a block of rows by
    :math:`w_{io}^2 / U_{ii}^2`, each row's error :math:`e_i = (w_i - w'_i) / U_{ii}` is taken from all rows below,
    :math:`w_j \mathrel{-}= U_{ij} e_i`. Costs reduction^3 + reduction^2 x out.

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
    size, blocks = weight.shape[1], len(shares)
    padding = ((0, 0), (0, blocks * block - size), (0, 0))
    upper = _inverse_factor(moment)
    upper = jnp.pad(upper, (*padding[:2], padding[1])) + jnp.diag(
        (jnp.arange(blocks * block) >= size).astype(upper.dtype)
    )
    valid = jnp.arange(blocks * block) < size

    def one(b: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, mask = carry
        start = b * block
        rows = lax.dynamic_slice_in_dim(weight, start, block, 1)
        factor = lax.dynamic_slice_in_dim(upper, start, block, 1)
        own = lax.dynamic_slice_in_dim(factor, start, block, 2)
        scores = jnp.square(rows / jnp.diagonal(own, axis1=1, axis2=2)[..., None])
        scores = jnp.where(lax.dynamic_slice_in_dim(valid, start, block)[:, None], scores, -1)
        kept = keep_pattern(scores, pattern) if pattern else keep_of_layer(scores, shares[b])

        def row(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            rows, errors = carry
            line = own[:, i]
            error = jnp.where(kept[:, i], 0, rows[:, i]) / line[:, i, None]
            below = jnp.where(jnp.arange(block) > i, line, 0)
            return rows - below[..., None] * error[:, None], errors.at[:, i].set(error)

        rows, errors = lax.fori_loop(0, block, row, (rows, jnp.zeros_like(rows)))
        later = jnp.where(jnp.arange(upper.shape[-1]) >= start + block, factor, 0)
        weight = weight - jnp.einsum("gbr,gbo->gro", later, errors, precision="highest")
        weight = lax.dynamic_update_slice_in_dim(weight, jnp.where(kept, rows, 0), start, 1)
        return weight, lax.dynamic_update_slice_in_dim(mask, kept, start, 1)

    start = jnp.pad(weight, padding)
    weight, mask = lax.fori_loop(0, blocks, one, (start, jnp.zeros(start.shape, bool)))
    return mask[:, :size], weight[:, :size]


def _inverse_factor(moment: Array) -> Array:
    """U, upper triangular, with ``inverse(H) = U.T @ U``: the inverse of R of ``H = R @ R.T``."""
    turned = jnp.linalg.cholesky(moment[:, ::-1, ::-1])[:, ::-1, ::-1]
    identity = jnp.broadcast_to(jnp.eye(moment.shape[-1], dtype=moment.dtype), moment.shape)
    return lax.linalg.triangular_solve(turned, identity, left_side=True, lower=False)
