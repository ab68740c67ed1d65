"""Correlation congruence: a kernel of every pair of examples."""

import functools
import math
from typing import Any

from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import feature_pair, mask_of, mean_where, normalized, rows

KERNELS = ("gaussian", "bilinear")


def correlation(
    student: Array, teacher: Array, *, kernel: str = "gaussian", gamma: float = 0.4, order: int = 2, where: Any = None
) -> Array:
    r"""Compares a kernel of all pairs of examples: a scalar.

    :math:`\frac{1}{n^2} \lVert K^s - K^t \rVert_F^2`. Of features f, flattened and scaled to length 1, the Gaussian
    kernel's Taylor series is
    :math:`K_{ij} = e^{-2\gamma} \sum_{p=0}^{order} \frac{(2\gamma)^p}{p!} (f_i \cdot f_j)^p`; the bilinear kernel is
    :math:`f_i \cdot f_j`. No gradient reaches the teacher. Computed in float32 or better.

    Args:
      student: ``[batch, ...]``, of two examples or more.
      teacher: likewise; its features may have another shape.
      kernel: "gaussian" or "bilinear".
      gamma: of the Gaussian kernel, above 0.
      order: of its series, at least 1.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar.

    Raises:
      ArgumentError: for a kernel, gamma or order out of range, shapes that do not fit, or a batch of one.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0], [-1.0]])
      >>> correlation(student, teacher, kernel="bilinear").item()
      2.0

    Reference: Peng et al., Correlation congruence for knowledge distillation, 2019.
    """
    if kernel not in KERNELS or not gamma > 0 or order < 1:
        raise ArgumentError(
            f"kernel must be one of {', '.join(KERNELS)}, gamma above 0 and order at least 1, "
            f"got {kernel!r}, {gamma} and {order}"
        )
    pair = feature_pair(student, teacher, where, alike="batch", least=2)
    compare = functools.partial(_compare, kernel=kernel, gamma=gamma, order=order)
    return automatic(compare, *pair, mask_of(where, pair[0]))


def _compare(student: Array, teacher: Array, mask: Array, *, kernel: str, gamma: float, order: int) -> Array:
    def of(x: Array) -> Array:
        unit = normalized(rows(x))
        products = unit @ unit.T
        if kernel == "bilinear":
            return products
        series = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(series[1:], series[0])

    return mean_where((of(student) - of(teacher)) ** 2, mask[:, None] & mask[None, :])
