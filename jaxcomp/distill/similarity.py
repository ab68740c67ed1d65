"""Similarity-preserving distillation: which examples of a batch are alike."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import feature_pair, mask_of, normalized, rows


def similarity(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Compares the similarities of all pairs of examples: a scalar.

    :math:`\frac{1}{n^2} \lVert G^s - G^t \rVert_F^2`, with :math:`G = F F^\top` of the features F, ``[n, features]``,
    and each row of G scaled to length 1. Student and teacher may have features of any shape. No gradient reaches the
    teacher. Computed in float32 or better.

    Args:
      student: ``[batch, ...]``, of two examples or more.
      teacher: likewise.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar. The paper weighs it by 3000.

    Raises:
      ArgumentError: for shapes that do not fit, or a batch of one.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0], [-1.0]])
      >>> round(float(similarity(student, teacher)), 4)
      1.0

    Reference: Tung and Mori, Similarity-preserving knowledge distillation, 2019.
    """
    pair = feature_pair(student, teacher, where, alike="batch", least=2)
    return automatic(_compare, *pair, mask_of(where, pair[0]))


def _compare(student: Array, teacher: Array, mask: Array) -> Array:
    # The rows of examples that do not count are 0, in the features and so in G.
    ours, theirs = (normalized(x @ x.T) for x in (rows(student), rows(teacher)))
    count = jnp.maximum(jnp.sum(mask), 1).astype(ours.dtype)
    return jnp.sum((ours - theirs) ** 2) / count**2
