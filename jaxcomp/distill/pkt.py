"""Probabilistic knowledge transfer: whom each example takes for its neighbor."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import feature_pair, mask_of, mean_where, normalized, pairs_of, rows

TINY = 1e-7  # opposite examples have no probability, and its logarithm no gradient


def pkt(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Compares the probability that an example picks another as its neighbor: a scalar.

    :math:`\mathrm{mean}_{i \ne j}\, p_{ij} \log(p_{ij} / q_{ij})`, with :math:`p_{ij}` (the teacher's) proportional to
    :math:`(1 + \cos(f_i, f_j)) / 2` over all :math:`j \ne i`, and q the student's. No gradient reaches the teacher.
    Computed in float32 or better.

    Args:
      student: ``[batch, ...]``, of three examples or more.
      teacher: likewise; its features may have another shape.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar. The paper has the sum over pairs; Tian et al. (2020) weigh the mean by 30000.

    Raises:
      ArgumentError: for shapes that do not fit, or fewer than three examples: of two each has one neighbor.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
      >>> [round(float(pkt(x, teacher)), 4) for x in (teacher, teacher[::-1] + 1)]
      [0.0, 0.0083]

    Reference: Passalis and Tefas, Learning deep representations with probabilistic knowledge transfer, 2018.
    """
    pair = feature_pair(student, teacher, where, alike="batch", least=3)
    return automatic(_compare, *pair, mask_of(where, pair[0]))


def _compare(student: Array, teacher: Array, mask: Array) -> Array:
    pairs = pairs_of(mask)

    def neighbors(x: Array) -> Array:
        unit = normalized(rows(x))
        kernel = jnp.where(pairs, jnp.maximum((1 + unit @ unit.T) / 2, 0), 0)
        return kernel / (jnp.sum(kernel, axis=1, keepdims=True) + TINY)

    p, q = neighbors(teacher), neighbors(student)
    return mean_where(p * (jnp.log(p + TINY) - jnp.log(q + TINY)), pairs)
