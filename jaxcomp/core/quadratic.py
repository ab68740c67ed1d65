r"""The squared error of a layer's outputs, as a quadratic form, and how the weights of a layer make up for each other.

A layer is a matrix W ``[groups, reduction, out]`` (one group for a matmul, one a feature group for a grouped
convolution) and the second moment of its inputs, :math:`H = \sum x x^\top` ``[groups, reduction, reduction]``. What a
change costs is the squared error of its outputs, :math:`\operatorname{tr} (W - W')^\top H (W - W')`.
"""

import jax
import jax.numpy as jnp
from jax import Array

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
