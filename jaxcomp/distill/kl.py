"""Distillation from a teacher's logits: temperature-softened Kullback-Leibler divergence."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import divergence, expected_log, log_probabilities
from jaxcomp.distill.inputs import check_logits, check_temperature, counted, logit_pair, real_type


def kl(student: Array, teacher: Array, *, temperature: float = 1.0, where: Any = None) -> Array:
    r"""Computes the KL divergence of the student's softened distribution from the teacher's, per example.

    :math:`T^2 \sum_c p_c (\log p_c - \log q_c)` with :math:`p = \mathrm{softmax}(teacher / T)` and
    :math:`q = \mathrm{softmax}(student / T)`. The factor :math:`T^2` keeps gradients of one size over temperatures.
    No gradient reaches the teacher. Computed in float32 or better. Classes that the teacher rules out add nothing,
    whatever the student says; where it rules out all of them, as in rows that are padding, the loss is 0.

    Args:
      student: ``[..., classes]`` logits; -inf for a class that it rules out: the loss is infinite if the teacher does
        not.
      teacher: ``[..., classes]`` logits; -inf likewise.
      temperature: above 0; higher is softer.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, in nats times temperature squared; at least 0, but for rounding.

    Raises:
      ArgumentError: for a temperature that is not above 0, or shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> kl(jnp.array([0.0, 0.0]), jnp.array([0.0, jnp.log(3.0)])).round(4)
      Array(0.1308, dtype=float32)

    Reference: Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015.
    """
    check_temperature(temperature)
    student, teacher = logit_pair(student, teacher, where)
    log_p, log_q = (log_probabilities(logits, temperature) for logits in (teacher, student))
    return counted(temperature**2 * divergence(log_p, log_q), where)


def soft_and_hard(
    student: Array,
    teacher: Array,
    labels: Array,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    smoothing: float = 0.0,
    where: Any = None,
) -> Array:
    r"""Combines soft and hard targets, per example: :math:`\alpha\,\mathrm{KL}_T + (1 - \alpha)\,\mathrm{CE}`.

    Examples whose label is none of the classes (-1, -100, 255, ...) learn from the teacher alone.

    Args:
      student: ``[..., classes]`` logits.
      teacher: ``[..., classes]`` logits.
      labels: ``[...]`` integer classes, or ``[..., classes]`` probabilities, as of :func:`cross_entropy`.
      temperature: of :func:`kl`, above 0.
      alpha: weight of the teacher's soft targets, in [0, 1]; at either end the other loss does not count at all.
      smoothing: of the labels, as of :func:`cross_entropy`. A teacher that was itself trained on smoothed labels
        teaches less (Müller et al., When does label smoothing help?, 2019).
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, in nats.

    Raises:
      ArgumentError: for a temperature or alpha out of range, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0]])
      >>> soft_and_hard(logits, logits, jnp.array([0]), alpha=0.5).round(4)
      Array([0.0635], dtype=float32)

    Reference: Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015.
    """
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha weighs soft against hard targets and must be in [0, 1], got {alpha}")
    student, teacher = logit_pair(student, teacher, where)
    soft, hard = kl(student, teacher, temperature=temperature), cross_entropy(student, labels, smoothing=smoothing)
    if alpha in (0, 1):  # the other may be infinite
        return counted(soft if alpha else hard, where)
    return counted(alpha * soft + (1 - alpha) * hard, where)


def cross_entropy(logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    r"""Takes :math:`-\log q_y` of integer labels y, or :math:`-\sum_c p_c \log q_c` of probabilities p, per example.

    Integers that name no class (-1, -100, 255, ...: pixels without a label, padding) are ignored: their loss is 0 and
    has no gradient. A mean over those that count is ``loss.sum() / ((labels >= 0) & (labels < classes)).sum()``.

    Args:
      logits: ``[..., classes]``; -inf for a class that is ruled out, whose loss is infinite and whose probability of 0
        adds nothing.
      labels: ``[...]`` integers, or ``[..., classes]`` probabilities.
      smoothing: the share of the label's probability, in [0, 1), that goes to all classes evenly; of those that are not
        ruled out.

    Returns:
      ``[...]``, in nats, float32 or better.

    Raises:
      ArgumentError: for labels of another shape or type, or smoothing out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([2, -1])).round(4)
      Array([1.3863, 0.    ], dtype=float32)
    """
    if not 0 <= smoothing < 1:
        raise ArgumentError(f"smoothing is a share of probability and must be in [0, 1), got {smoothing}")
    check_logits(logits)
    log_q = log_probabilities(logits.astype(real_type(logits)))
    loss, weight = _of_labels(log_q, labels)
    if not smoothing:
        return loss
    gone = jnp.isneginf(log_q)
    evenly = -jnp.sum(jnp.where(gone, 0, log_q), axis=-1) / jnp.maximum(jnp.sum(~gone, axis=-1), 1).astype(log_q.dtype)
    return (1 - smoothing) * loss + smoothing * jnp.where(weight == 0, 0, weight * evenly)


def _of_labels(log_q: Array, labels: Array) -> tuple[Array, Array]:
    """The cross-entropy of each example, and the sum of its labels' probabilities."""
    check_arrays(labels=labels)
    if labels.shape == log_q.shape:
        labels = labels.astype(log_q.dtype)
        return -expected_log(labels, log_q), jnp.sum(labels, axis=-1)
    if labels.shape != log_q.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ArgumentError(
            f"labels must be integers of shape {log_q.shape[:-1]} or probabilities of shape {log_q.shape}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # 300 classes are no uint8
    counts = (labels >= 0) & (labels < log_q.shape[-1])
    own = jnp.take_along_axis(log_q, jnp.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(counts, -own, 0), counts.astype(log_q.dtype)
