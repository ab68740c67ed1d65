r"""The squared error of a layer's outputs, as a quadratic form, and how the weights of a layer make up for each other.

A layer is a matrix W ``[groups, reduction, out]`` (one group for a matmul, one a feature group for a grouped
convolution) and the second moment of its inputs, :math:`H = \sum x x^\top` ``[groups, reduction, reduction]``. What a
change costs is the squared error of its outputs, :math:`\operatorname{tr} (W - W')^\top H (W - W')`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.cholesky import cholesky, product


def damped(moment: Array, damping: float = 0.01) -> Array:
    r"""Raises the diagonal of a second moment, so that it can be inverted: :math:`H + \lambda \bar{h} I`.

    Args:
      moment: ``[groups, reduction, reduction]``.
      damping: :math:`\lambda`, in units of the mean :math:`\bar{h}` of all diagonals together. Without any input at all
        the result is the identity, which leaves the squared error of the weights.

    Example:
      >>> damped(jnp.diag(jnp.array([1.0, 3.0]))[None], 0.5)[0].tolist()
      [[2.0, 0.0], [0.0, 4.0]]
    """
    mean = jnp.mean(jnp.diagonal(moment, axis1=-2, axis2=-1))
    # A float32 sum is never exact to more than that: what is less than it cannot be told from a singular matrix.
    raised = jnp.where(mean > 0, max(damping, 1e-6) * mean, 1)
    return moment + raised * jnp.eye(moment.shape[-1], dtype=moment.dtype)[None]


@jax.jit
def output_error(weight: Array, other: Array, moment: Array) -> Array:
    r"""Computes the squared error of a layer's outputs, :math:`\operatorname{tr} (W - W')^\top H (W - W')`.

    Args:
      weight: W ``[groups, reduction, out]``.
      other: W', likewise.
      moment: H ``[groups, reduction, reduction]``.

    Example:
      >>> output_error(jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1)), jnp.diag(jnp.array([1.0, 3.0]))[None]).item()
      4.0
    """
    change = weight - other
    return jnp.sum(change * product(moment, change))


def sweep(
    weight: Array,
    upper: Array,
    block: int,
    begin: Callable[[Array, Array, Array], Any],
    fixed: Callable[[Any, Array, Array], Array],
) -> tuple[Array, Array, Any]:
    r"""Fixes row after row of the reduction; those that follow make up for each.

    Each row's error :math:`e_i = (w_i - w'_i) / U_{ii}` is taken from all rows below,
    :math:`w_j \mathrel{-}= U_{ij} e_i`: from those of its block as they are reached, from others when their block is.
    Costs reduction^2 x out / 2.

    Args:
      weight: ``[groups, reduction, out]``.
      upper: U ``[groups, reduction, reduction]``, upper triangular, :math:`H^{-1} = U^\top U` of the inputs' moment H.
      block: rows that begin together; does not change the result.
      begin: ``(number of a block, its rows [groups, block, out], their diagonal of U [groups, block, 1]) -> what is
        known of the block``, a tree; rows beyond the last are 0.
      fixed: ``(what is known of the block, number of a row in it, the row [groups, out]) -> what it becomes``.

    Returns:
      The new rows, their errors :math:`e_i`, and what was known of the blocks, stacked.

    Reference: Frantar et al., GPTQ, 2023; Frantar and Alistarh, SparseGPT, 2023.
    """
    size = weight.shape[1]
    blocks = -(-size // block)
    beyond = (0, blocks * block - size)
    weight = jnp.pad(weight, ((0, 0), beyond, (0, 0)))
    outside = jnp.arange(blocks * block) >= size
    upper = jnp.pad(upper, ((0, 0), beyond, beyond)) + jnp.diag(outside.astype(weight.dtype))[None]
    step = min(block * max(1, 512 // block), len(outside))  # rows whose errors are taken together

    def one(carry: tuple[Array, Array], b: Array) -> tuple[tuple[Array, Array], Any]:
        errors, start = carry[1], b * block
        columns = lax.dynamic_slice_in_dim(upper, start, block, 2)
        own = lax.dynamic_slice_in_dim(columns, start, block, 1)

        def take(k: Array, rows: Array) -> Array:
            first = jnp.minimum(k * step, len(outside) - step)
            some = lax.dynamic_slice_in_dim(errors, first, step, 1)
            some = jnp.where((first + jnp.arange(step) >= k * step)[:, None], some, 0)
            return rows - product(lax.dynamic_slice_in_dim(columns, first, step, 1).swapaxes(1, 2), some)

        rows = lax.dynamic_slice_in_dim(weight, start, block, 1)
        rows = lax.fori_loop(0, -(-start // step), take, rows) if blocks > 1 else rows
        known = begin(b, rows, jnp.diagonal(own, axis1=1, axis2=2)[..., None])

        def row(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            done, errors = carry
            now = rows[:, i] - product(own[:, None, :, i], errors)[:, 0]
            new = fixed(known, i, now)
            return done.at[:, i].set(new), errors.at[:, i].set((now - new) / own[:, i, i, None])

        both = lax.fori_loop(0, block, row, (jnp.zeros_like(rows), jnp.zeros_like(rows)))
        new, off = (lax.dynamic_update_slice_in_dim(*pair, start, 1) for pair in zip(carry, both, strict=True))
        return (new, off), known

    (new, off), known = lax.scan(one, (jnp.zeros_like(weight), jnp.zeros_like(weight)), jnp.arange(blocks))
    return new[:, :size], off[:, :size], known


@jax.jit
def inverse(moment: Array) -> Array:
    """Inverts a positive definite moment ``[groups, reduction, reduction]``."""
    return solve(moment, jnp.broadcast_to(jnp.eye(moment.shape[-1], dtype=moment.dtype), moment.shape))


@jax.jit
def solve(moment: Array, wanted: Array) -> Array:
    r"""Solves :math:`H^{-1} B` by Cholesky's factorization.

    Args:
      moment: H ``[groups, reduction, reduction]``, positive definite (:func:`damped`); otherwise the result is NaN.
      wanted: B ``[groups, reduction, out]``.

    Example:
      >>> solve(4 * jnp.eye(2)[None], jnp.ones((1, 2, 1)))[0].tolist()
      [[0.25], [0.25]]
    """
    return jax.scipy.linalg.cho_solve((cholesky(moment), True), wanted)
