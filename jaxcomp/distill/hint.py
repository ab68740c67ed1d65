"""Hints: intermediate features of the teacher as a regression target (FitNets)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.distill.inputs import counted, feature_pair


def hint(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Takes the mean squared difference of features, per example: :math:`\mathrm{mean}(s - t)^2`.

    The student's go through a connector (:func:`connect`) where their shape is another. The paper sums the squares and
    halves them; the mean does not grow with the feature map. No gradient reaches the teacher. Computed in float32 or
    better.

    Args:
      student: ``[batch, ...]``, after its connector.
      teacher: likewise.
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``. Tian et al. (2020) weigh it by 100.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> hint(jnp.ones((2, 4, 4, 8)), jnp.zeros((2, 4, 4, 8))).tolist()
      [1.0, 1.0]

    Reference: Romero et al., FitNets: hints for thin deep nets, 2015.
    """
    student, teacher = feature_pair(student, teacher, where)
    return counted(jnp.mean((student - teacher) ** 2, axis=tuple(range(1, student.ndim))), where)
