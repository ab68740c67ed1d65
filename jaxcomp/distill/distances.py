"""Distances of logits as they are, without a softmax: squared differences and the angle."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.distill.inputs import counted, logit_pair, normalized


def mse(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Takes the mean squared difference of logits, per example: :math:`\mathrm{mean}_c (s_c - t_c)^2`.

    What :func:`kl` tends to at high temperatures, up to each example's mean and the factor classes / 2. For normalized
    logits, ``standardized(mse)``. No gradient reaches the teacher. Computed in float32 or better.

    Args:
      student: ``[..., classes]`` logits.
      teacher: likewise; classes at -inf add nothing.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, infinite where the student rules out what the teacher does not.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
      [2.0]

    Reference: Ba and Caruana, Do deep nets really need to be deep?, 2014; Kim et al., Comparing Kullback-Leibler
    divergence and mean squared error loss in knowledge distillation, 2021.
    """
    (student, teacher), gone = _possible(*logit_pair(student, teacher, where))
    squares = jnp.where(gone, 0, (student - teacher) ** 2)
    return counted(jnp.sum(squares, axis=-1) / jnp.maximum(jnp.sum(~gone, axis=-1), 1).astype(squares.dtype), where)


def cosine(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Takes 1 less the cosine between student and teacher, per example.

    :math:`1 - s \cdot t / (\lVert s \rVert \lVert t \rVert)`, of logits or any other vectors. No gradient reaches the
    teacher. Computed in float32 or better.

    Args:
      student: ``[..., classes]``; where it is all 0 the loss is 1, without a gradient.
      teacher: likewise; where it is all 0 the loss is 0. Classes at -inf add nothing.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, in [0, 2].

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> cosine(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 4.0]])).tolist()
      [1.0]
    """
    (student, teacher), _ = _possible(*logit_pair(student, teacher, where))
    student, teacher = normalized(student), normalized(teacher)
    # Half the squared distance of unit vectors: 1 - s.t would be a rounding error where they are nearly equal.
    distance = jnp.sum((student - teacher) ** 2, axis=-1) / 2
    distance = jnp.where(jnp.all(student == 0, axis=-1), 1, distance)
    return counted(jnp.where(jnp.all(teacher == 0, axis=-1), 0, distance), where)


def _possible(student: Array, teacher: Array) -> tuple[tuple[Array, Array], Array]:
    """Logits with 0 in the classes that the teacher rules out, and which these are."""
    gone = jnp.isneginf(teacher)
    return (jnp.where(gone, 0, student), jnp.where(gone, 0, teacher)), gone
