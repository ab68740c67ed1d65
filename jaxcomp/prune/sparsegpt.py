"""SparseGPT: one sweep over a layer's inputs, for layers too large for an exact search."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.core.quadratic import sweep
from jaxcomp.prune.reconstruct import NofM, keep_of_layer, keep_pattern

ROWS = 128
"""Rows whose mask is chosen together, where there is no pattern; so many are swept by one program."""


def sparsegpt(
    weight: Any,
    moment: Any,
    keep: int = 0,
    *,
    pattern: NofM | None = None,
    block: int = ROWS,
    upper: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Prunes row after row of the reduction; those that follow make up for each, those before are fixed.

    A mask is chosen for a block of rows by :math:`w_{io}^2 / U_{ii}^2`, :math:`H^{-1} = U^\top U`; the rest is
    :func:`jaxcomp.core.quadratic.sweep`. Blocks are swept one after another by one program, that of all layers with as
    many outputs: on the host, what one layer alone would compile takes longer than to prune it.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`damped`).
      keep: how many weights are kept in all; every block keeps its share.
      pattern: ``(n, m)``: that, instead of ``keep``.
      block: rows whose mask is chosen together.
      upper: U, where it is known (:class:`jaxcomp.core.factored.Factored`).

    Returns:
      The mask, True = kept, and the weights, zeros outside of it.

    Raises:
      ArgumentError: for a block of no rows.

    Reference: Frantar and Alistarh, SparseGPT, 2023.
    """
    if block < 1:
        raise ArgumentError(f"block must be at least 1 row, got {block}")
    new, upper = np.array(weight, np.float32), np.asarray(Factored.of(moment, None).upper if upper is None else upper)
    size = new.shape[1]
    rows = min(block, 1 << (size - 1).bit_length())
    if pattern:
        rows = pattern[1] * max(1, min(ROWS, size) // pattern[1])
    ends = np.minimum(np.arange(0, size + rows, rows), size)
    shares = np.diff(np.round(keep / size * ends).astype(np.int64))
    kept, errors = np.zeros(new.shape, bool), np.zeros_like(new)
    for start, end, share in zip(ends, ends[1:], shares, strict=False):
        here, beyond = slice(start, end), ((0, 0), (0, rows - (end - start)), (0, 0))
        now = new[:, here] - upper[:, :start, here].swapaxes(1, 2) @ errors[:, :start]
        own = upper[:, here, here]
        chosen: Any = None
        if not pattern:
            scores = np.square(now / np.diagonal(own, axis1=1, axis2=2)[..., None])
            chosen = np.pad(np.asarray(keep_of_layer(scores, int(share))), beyond)
        square = np.pad(own, (beyond[0], beyond[1], beyond[1]))
        square[:, range(end - start, rows), range(end - start, rows)] = 1
        found = _swept(np.pad(now, beyond), square, chosen, end - start, pattern)
        new[:, here], errors[:, here], kept[:, here] = (np.asarray(x)[:, : end - start] for x in found)
    return kept, new


@functools.partial(jax.jit, static_argnames="pattern")
def _swept(weight: Array, upper: Array, mask: Any, count: Any, pattern: NofM | None) -> tuple[Array, Array, Array]:
    """Some rows, of which ``count`` are a layer's, pruned by a mask or a pattern: they, their errors, the mask."""
    rows = weight.shape[1]
    block = pattern[1] if pattern else rows

    def begin(b: Array, rows: Array, diagonal: Array) -> Array:
        if pattern is None:
            return mask
        there = b * block + jnp.arange(block) < count
        return keep_pattern(jnp.where(there[:, None], jnp.square(rows / diagonal), -1), pattern)

    new, errors, kept = sweep(weight, upper, block, begin, lambda kept, i, row: jnp.where(kept[:, i], row, 0))
    return new, errors, jnp.moveaxis(kept, 0, 1).reshape(len(weight), -1, weight.shape[2])[:, :rows]
