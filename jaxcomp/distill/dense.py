"""Dense outputs: losses of every pixel or anchor, averaged over an image; channels as maps over its positions (CWD)."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import divergence, log_probabilities
from jaxcomp.distill.inputs import check_temperature, check_where, expanded, feature_pair, mean_where


def per_position(values: Array, *, where: Any = None) -> Array:
    """Averages the losses of the pixels, anchors or tokens of each example.

    Any loss on ``[..., classes]`` logits takes one of ``[batch, h, w, classes]`` or ``[batch, anchors, classes]``.

    Args:
      values: ``[batch, ...]``, such as of ``kl(student, teacher)``.
      where: bools of the same shape: which count, such as ``labels != 255`` or an anchor's being matched. None: all.

    Returns:
      ``[batch]``; 0 where none counts.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> losses, labels = jnp.array([[2.0, 4.0, 9.0]]), jnp.array([[0, 1, 255]])
      >>> per_position(losses, where=labels != 255).tolist()
      [3.0]
    """
    check_arrays(values=values)
    where = jnp.ones(values.shape, bool) if where is None else where
    check_where(where, values.shape)
    if values.ndim < 2:
        raise ArgumentError(f"values must be losses of positions, [batch, ...], got {values.shape}")
    return mean_where(values, where, axis=tuple(range(1, values.ndim)))


def channel_wise(student: Array, teacher: Array, *, temperature: float = 4.0, where: Any = None) -> Array:
    r"""Compares where each channel is active: a softmax over positions in place of classes, per example.

    :math:`\frac{T^2}{C} \sum_c \sum_i p_{ci} (\log p_{ci} - \log q_{ci})` with p and q the softmax of channel c over
    the positions i, of values over T. For logit maps (a channel a class) and, after a connector, for feature maps. No
    gradient reaches the teacher. Computed in float32 or better.

    Args:
      student: ``[batch, ..., channels]``, with one axis of positions or more.
      teacher: likewise.
      temperature: above 0.
      where: ``[batch]`` or ``[batch, ...]`` bools: examples or positions at False add nothing. None: all count.

    Returns:
      ``[batch]``. The paper weighs it by 3 on logits and by 50 on features.

    Raises:
      ArgumentError: for a temperature that is not above 0, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([[[4.0], [0.0]]])
      >>> [round(float(channel_wise(teacher * k, teacher)[0]), 3) for k in (1, 0)]
      [0.0, 1.775]

    Reference: Shu et al., Channel-wise knowledge distillation for dense prediction, 2021.
    """
    check_temperature(temperature)
    check_arrays(student=student, teacher=teacher)
    if student.ndim < 3:
        raise ArgumentError(f"channel_wise takes [batch, positions..., channels], got {student.shape}")
    student, teacher = feature_pair(student, teacher)
    if where is not None:
        check_where(where, student.shape[:1], student.shape[:-1])
        # Positions that are ruled out by both add nothing, examples of which all positions are, either.
        student, teacher = (jnp.where(expanded(where, x), x, -jnp.inf) for x in (student, teacher))
    maps = (jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 2) for x in (teacher, student))
    log_p, log_q = (log_probabilities(x, temperature) for x in maps)
    return temperature**2 * jnp.mean(divergence(log_p, log_q), axis=-1)
