"""Relational distillation: distances of pairs of examples, and angles of triplets."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import feature_pair, mask_of, mean_where, normalized, pairs_of, root, rows


def rkd_distance(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Compares the distances of all pairs of examples: a scalar.

    :math:`\mathrm{mean}_{i \ne j}\, h(d^s_{ij} - d^t_{ij})`, with d the distance over its mean over pairs, and h
    Huber's loss: :math:`x^2/2` up to 1, :math:`|x| - 1/2` above. No gradient reaches the teacher. Computed in float32
    or better.

    Args:
      student: ``[batch, ...]``, of two examples or more.
      teacher: likewise; its features may have another shape.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar. The paper weighs it by 25 in classification.

    Raises:
      ArgumentError: for shapes that do not fit, or a batch of one.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> [round(float(rkd_distance(y, x)), 4) for y in (5 * x, x**2)]
      [0.0, 0.037]

    Reference: Park et al., Relational knowledge distillation, 2019.
    """
    pair = feature_pair(student, teacher, where, alike="batch", least=2)
    return automatic(_distances, *pair, mask_of(where, pair[0]))


def rkd_angle(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Compares the angles in all triplets of examples: a scalar.

    :math:`\mathrm{mean}_{ijk}\, h(a^s_{ijk} - a^t_{ijk})` over different i, j and k, with :math:`a_{ijk}` the cosine of
    the angle at j between i and k, and h Huber's loss. No gradient reaches the teacher. Computed in float32 or better;
    batch cubed numbers.

    Args:
      student: ``[batch, ...]``, of three examples or more.
      teacher: likewise; its features may have another shape.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar. The paper weighs it by 50 in classification.

    Raises:
      ArgumentError: for shapes that do not fit, or fewer than three examples.

    Example:
      >>> import jax.numpy as jnp
      >>> corner, line = jnp.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0], [1.0], [2.0]])
      >>> [round(float(rkd_angle(y, corner)), 4) for y in (corner * 3 + 1, line)]
      [0.0, 0.1953]

    Reference: Park et al., Relational knowledge distillation, 2019.
    """
    pair = feature_pair(student, teacher, where, alike="batch", least=3)
    return automatic(_angles, *pair, mask_of(where, pair[0]))


def _distances(student: Array, teacher: Array, mask: Array) -> Array:
    pairs = pairs_of(mask)

    def of(x: Array) -> Array:
        distance = root(jnp.sum(_differences(x) ** 2, axis=-1))
        mean = mean_where(distance, pairs)
        return jnp.where(mean == 0, 0, distance / jnp.where(mean == 0, 1, mean))

    return mean_where(_huber(of(student) - of(teacher)), pairs)


def _angles(student: Array, teacher: Array, mask: Array) -> Array:
    pairs = pairs_of(mask)
    triplets = pairs[:, :, None] & pairs[:, None, :] & pairs[None, :, :]  # [at j, to i, to k]

    def of(x: Array) -> Array:
        unit = normalized(_differences(x))
        return jnp.einsum("jid,jkd->jik", unit, unit)

    return mean_where(_huber(of(student) - of(teacher)), triplets)


def _differences(x: Array) -> Array:
    """``[batch, batch, features]``: the vector from each example to each other.

    Not by products of the features, in which the distance of examples that are close would cancel.
    """
    x = rows(x)
    return x[None, :, :] - x[:, None, :]


def _huber(x: Array) -> Array:
    size = jnp.abs(x)
    return jnp.where(size <= 1, x * x / 2, size - 0.5)
