r"""Layer-wise pruning by reconstruction: the weights that are left make up for those that are pruned.

A layer is a matrix W ``[groups, reduction, out]`` (one group for a matmul, one a feature group for a grouped
convolution) and the second moment of its inputs, :math:`H = \sum x x^\top` ``[groups, reduction, reduction]``. What
pruning costs is the squared error of its outputs, :math:`\operatorname{tr} (W - W')^\top H (W - W')`. Masks and weights
of a layer are chosen here; :mod:`jaxcomp.prune.obc` and :mod:`jaxcomp.prune.sparsegpt` are methods of their own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core import threshold
from jaxcomp.core.lapack import side_by_side, solved
from jaxcomp.core.largest import mask_of
from jaxcomp.core.leaves import wide
from jaxcomp.core.quadratic import inverse
from jaxcomp.prune.distributions import output_by_output
from jaxcomp.prune.patterns import best_of_groups

NofM = tuple[int, int]
"""``(n, m)``: of every m weights in a row along the reduction, n are kept."""
ROWS = 128
"""Rows of which a triangle is copied at once."""


def norms_of(moment: Array) -> Array:
    r"""Returns the norm of each input, :math:`\sqrt{H_{ii}}`: ``[groups, reduction, 1]``.

    Example:
      >>> norms_of(jnp.diag(jnp.array([1.0, 9.0]))[None]).ravel().tolist()
      [1.0, 3.0]
    """
    return jnp.sqrt(jnp.maximum(jnp.diagonal(moment, axis1=-2, axis2=-1), 0))[..., None]


def wanda_scores(weight: Array, norms: Array) -> Array:
    r"""Scores weights by Wanda: :math:`|w_{io}| \lVert x_i \rVert_2`, magnitude times the norm of the input.

    Args:
      weight: of any shape, ``[groups, reduction, out]`` for one.
      norms: of its rank, 1 along the axes on which they do not depend.

    Example:
      >>> wanda_scores(jnp.array([[4.0, 1.0], [2.0, 3.0]]), jnp.array([[1.0], [10.0]])).tolist()
      [[4.0, 1.0], [20.0, 30.0]]

    Reference: Sun et al., A simple and effective pruning approach for large language models, 2024.
    """
    return jnp.abs(weight).astype(wide(weight.dtype)) * norms


def obs_scores(weight: Array, moment: Array) -> Array:
    r"""Scores weights by the loss of each alone, all others making up for it: :math:`w_{io}^2 / [H^{-1}]_{ii}`.

    Args:
      weight: ``[groups, reduction, out]``.
      moment: ``[groups, reduction, reduction]``, positive definite (:func:`damped`).

    Example:
      >>> obs_scores(jnp.array([[[1.0], [2.0]]]), jnp.diag(jnp.array([4.0, 1.0]))[None]).ravel().tolist()
      [4.0, 4.0]

    Reference: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon, 1992.
    """
    return jnp.square(weight) / jnp.diagonal(inverse(moment), axis1=1, axis2=2)[..., None]


def keep_of_layer(scores: Any, keep: int | Array) -> Any:
    """Makes a mask of the ``keep`` largest scores of a layer, ties in favor of the lower index; True = kept.

    Outside of ``jit`` it is found on the host: a search is compiled anew for each shape, and takes longer to.

    Args:
      scores: of any shape; none is NaN.
      keep: how many.

    Example:
      >>> keep_of_layer(np.array([3.0, 1.0, 2.0]), 2).tolist()
      [True, False, True]
    """
    if any(isinstance(x, jax.core.Tracer) for x in (scores, keep)):
        return threshold.keep_largest([scores], [keep], [0], score=threshold.itself)[0]
    return mask_of([np.asarray(scores)], int(keep))[0]


def keep_per_output(scores: Array, keep: int) -> Array:
    """Makes a mask of ``keep`` weights, the largest scores of each output; some keep one more if need be.

    Args:
      scores: ``[groups, reduction, out]``.
      keep: over the whole layer.

    Returns:
      Boolean, of the same shape.

    Example:
      >>> keep_per_output(jnp.array([[[3.0, 1.0], [2.0, 5.0]]]), 2).astype(int).tolist()
      [[[1, 0], [0, 1]]]
    """
    return keep_of_layer(output_by_output(scores, axes=(1,)), keep)


def keep_pattern(scores: Array, pattern: NofM) -> Array:
    """Makes a mask of the n largest of every m consecutive scores along the reduction; the last m may be padded.

    Args:
      scores: ``[groups, reduction, out]``, at least 0.
      pattern: ``(n, m)``.

    Example:
      >>> keep_pattern(jnp.array([3.0, 1.0, 2.0, 0.5, 0.1]).reshape(1, 5, 1), (1, 2)).ravel().tolist()
      [True, False, True, False, True]
    """
    return best_of_groups(scores, *pattern, axes=(1,))


def least_squares(weight: Any, moment: Any, mask: Any) -> np.ndarray:
    r"""Fits the kept weights to the outputs of all: for each output, :math:`v_S = H_{SS}^{-1} (H w)_S`.

    Args:
      weight: w ``[groups, reduction, out]``.
      moment: H ``[groups, reduction, reduction]``, positive definite (:func:`damped`).
      mask: S, True = kept.

    Returns:
      ``[groups, reduction, out]``, zeros outside of the mask.

    Example:
      >>> moment = jnp.array([[[2.0, 1.0], [1.0, 2.0]]])
      >>> least_squares(jnp.ones((1, 2, 1)), moment, jnp.array([[[True], [False]]])).round(4).ravel().tolist()
      [1.5, 0.0]
    """
    moment, mask = np.asarray(moment), np.asarray(mask)
    wanted = np.matmul(moment, np.asarray(weight))
    new = np.zeros(wanted.shape, wanted.dtype)

    def solve(at: tuple[int, int]) -> None:
        g, o = at
        own = np.flatnonzero(mask[g, :, o])
        found = solved(_triangle(moment[g], own), wanted[g, own, o])
        new[g, own, o] = np.linalg.solve(moment[g][np.ix_(own, own)], wanted[g, own, o]) if found is None else found

    # On the host, where each output's problem has its own size: LAPACK, and nothing is compiled.
    side_by_side(solve, np.argwhere(mask.any(1)).tolist())
    return new


def _triangle(matrix: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Some rows and columns of a symmetric matrix, as far as the diagonal; what is beyond it has no meaning."""
    found = np.empty((len(own), len(own)), matrix.dtype)
    for first in range(0, len(own), ROWS):
        rows = own[first : first + ROWS]
        columns = own[: first + len(rows)]
        found[first : first + len(rows), : len(columns)] = matrix[np.ix_(rows, columns)]
    return found
