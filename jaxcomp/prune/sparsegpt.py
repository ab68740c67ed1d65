"""SparseGPT: one sweep over a layer's inputs, for layers too large for an exact search."""

from typing import Any

import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.prune.reconstruct import NofM, keep_of_layer

ROWS = 128
"""Rows whose mask is chosen together, and after which what they change in all that follow is added up."""


def sparsegpt(
    weight: Any,
    moment: Any,
    keep: int = 0,
    *,
    pattern: NofM | None = None,
    block: int = ROWS,
    upper: Any = None,
    mask: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Prunes row after row of the reduction; those that follow make up for each, those before are fixed.

    A mask is chosen for a block of rows by :math:`w_{io}^2 / U_{ii}^2`, :math:`H^{-1} = U^\top U`. Each row's error
    :math:`e_i = (w_i - w'_i) / U_{ii}` is taken from all rows below, :math:`w_j \mathrel{-}= U_{ij} e_i`. Costs
    reduction^2 x out / 2, on the host: what one layer alone would compile takes longer than to prune it.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`damped`).
      keep: how many weights are kept in all; every block keeps its share.
      pattern: ``(n, m)``: that, instead of ``keep``.
      block: rows whose mask is chosen together.
      upper: U, where it is known (:class:`jaxcomp.core.factored.Factored`).
      mask: what is kept, where that is known, in place of ``keep`` and a pattern.

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
    rows = pattern[1] * max(1, block // pattern[1]) if pattern else min(block, size)
    ends = np.minimum(np.arange(0, size + rows, rows), size)
    shares = np.diff(np.round(keep / size * ends).astype(np.int64))
    kept, errors = np.zeros(new.shape, bool), np.zeros_like(new)
    for start, end, share in zip(ends, ends[1:], shares, strict=False):
        here = slice(start, end)
        now = new[:, here] - upper[:, :start, here].swapaxes(1, 2) @ errors[:, :start]
        own = upper[:, here, here]
        chosen: Any = None if mask is None else np.asarray(mask)[:, here]
        if chosen is None and not pattern:
            chosen = keep_of_layer(np.square(now / _diagonal(own)), int(share))
        new[:, here], errors[:, here], kept[:, here] = _swept(now, own, chosen, pattern)
    return kept, new


def _swept(
    rows: np.ndarray, upper: np.ndarray, mask: np.ndarray | None, pattern: NofM | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prunes rows ``[groups, n, out]`` one after another, by a mask or a pattern: they, their errors, the mask."""
    kept, errors = np.zeros(rows.shape, bool) if mask is None else mask, np.zeros_like(rows)
    for i in range(rows.shape[1]):
        if mask is None and pattern and i % pattern[1] == 0:
            some = slice(i, i + pattern[1])
            ahead = rows[:, some] - upper[:, :i, some].swapaxes(1, 2) @ errors[:, :i]
            scores = np.square(ahead / _diagonal(upper[:, some, some]))
            best = np.argsort(-scores, 1, kind="stable")[:, : pattern[0]]  # of equals the first
            np.put_along_axis(kept[:, some], best, True, 1)
        now = rows[:, i] - (upper[:, None, :i, i] @ errors[:, :i])[:, 0]
        rows[:, i] = np.where(kept[:, i], now, 0)
        errors[:, i] = (now - rows[:, i]) / upper[:, i, i, None]
    return rows, errors, kept


def _diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=1, axis2=2)[..., None]
