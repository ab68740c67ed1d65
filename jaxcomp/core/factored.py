"""Factored moments: what flows into a layer, so far damped that it can be factored, on the host by LAPACK.

Moments are factored where they were summed up: LAPACK takes an eighth of what XLA takes on CPUs, and compiles nothing.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from jaxcomp.core.halves import forms, upper_product


class Factored(NamedTuple):
    """Second moments of a layer's inputs, and the factors of their inverses.

    Attributes:
      moment: H ``[groups, n, n]``, float32, with a raised diagonal.
      order: which input comes when, ``[groups, n]``.
      upper: U in that order, upper triangular, :math:`H^{-1} = U^\\top U`.
    """

    moment: np.ndarray
    order: np.ndarray
    upper: np.ndarray

    @classmethod
    def of(cls, moment: Any, damping: float | None, act_order: bool = False, overwrite: bool = False) -> "Factored":
        r"""Factors layer Hessians whose diagonals are raised by :math:`\lambda` times their mean.

        Rounding alone makes eigenvalues of n inputs negative by some 1e-7 n of the largest: where that is more than the
        damping asked for, it is ten times as much, or a hundred. Without any input at all the moment is the identity.

        Args:
          moment: mean products :math:`X X^\top`, ``[groups, n, n]``, finite.
          damping: the least :math:`\lambda`; None: they are positive definite, or the factor is NaN.
          act_order: whether inputs of large mean squares come first.
          overwrite: whether the moment may become that of the result, which saves a copy.
        """
        moment = (np.asarray if overwrite else np.array)(moment, np.float32)
        places = np.arange(moment.shape[-1])
        squares = moment[:, places, places]
        mean = float(squares.mean(dtype=np.float64))
        order = np.argsort(-squares, 1, kind="stable") if act_order else np.broadcast_to(places, squares.shape)
        if damping is None:
            upper = _factors(moment, order)
            return cls(moment, order, np.full_like(moment, np.nan) if upper is None else upper)
        while True:
            moment[:, places, places] = squares + np.float32(max(damping, 1e-6) * mean if mean > 0 else 1)
            upper = _factors(moment, order)
            if upper is not None or not damping < 1:
                return cls(moment, order, np.full_like(moment, np.nan) if upper is None else upper)
            damping = 10 * max(damping, 1e-6)

    def in_order(self, x: np.ndarray) -> np.ndarray:
        """Returns what belongs to inputs, ``[groups, n, ...]``, in their order."""
        return np.take_along_axis(x, self.order[..., None], 1)

    def as_before(self, x: np.ndarray) -> np.ndarray:
        """Inverts :meth:`in_order`."""
        return np.take_along_axis(x, np.argsort(self.order, 1)[..., None], 1)

    def solve(self, wanted: np.ndarray) -> np.ndarray:
        r"""Solves :math:`H^{-1} B` for B ``wanted`` ``[groups, n, out]``."""
        found = upper_product(self.upper, self.in_order(wanted))
        return self.as_before(upper_product(self.upper, found, turned=True))

    def error(self, change: np.ndarray) -> np.ndarray:
        r"""Computes :math:`\operatorname{diag} D^\top H D` of a change of weights D: ``[groups, 1, out]`` float64."""
        return forms(self.moment, change)[:, None]


def _factors(moment: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """U of each group; None where LAPACK finds that one is not positive definite."""
    found = np.empty_like(moment)
    for own, rows, upper in zip(moment, order, found, strict=True):
        turned = rows[::-1]
        square = own[np.ix_(turned, turned)].T  # which it is itself, and columns in a row are not copied
        lower, failed = lapack.spotrf(square, lower=1, clean=1, overwrite_a=1)
        if failed:
            return None
        upper[...] = lapack.strtri(lower, lower=1, overwrite_c=1)[0][::-1, ::-1]
    return found if np.isfinite(found).all() else None
