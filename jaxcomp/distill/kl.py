"""Distillation from a teacher's logits: temperature-softened Kullback-Leibler divergence."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide


def kl(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
    r"""Divergence of the student's softened distribution from the teacher's, per example.

    :math:`T^2 \sum_c p_c (\log p_c - \log q_c)` with :math:`p = \mathrm{softmax}(teacher / T)` and
    :math:`q = \mathrm{softmax}(student / T)`. The factor :math:`T^2` keeps gradients of one size over temperatures.
    No gradient reaches the teacher. Computed in float32 or better.

    Args:
      student: ``[..., classes]`` logits.
      teacher: ``[..., classes]`` logits; -inf for a class that it rules out.
      temperature: above 0; higher is softer.

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
    _check(student, teacher, temperature)
    real = wide(student.dtype, teacher.dtype)
    target = jax.lax.stop_gradient(teacher).astype(real) / temperature
    log_p, log_q = jax.nn.log_softmax(target), jax.nn.log_softmax(student.astype(real) / temperature)
    p = jnp.exp(log_p)
    terms = jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0) - log_q), 0)
    return temperature**2 * jnp.sum(terms, axis=-1)


def soft_and_hard(
    student: Array, teacher: Array, labels: Array, *, temperature: float = 4.0, alpha: float = 0.9
) -> Array:
    r"""Soft and hard targets together, per example: :math:`\alpha\,\mathrm{KL}_T + (1 - \alpha)\,\mathrm{CE}`.

    Args:
      student: ``[..., classes]`` logits.
      teacher: ``[..., classes]`` logits.
      labels: ``[...]`` integer classes, or ``[..., classes]`` probabilities.
      temperature: of :func:`kl`, above 0.
      alpha: weight of the teacher's soft targets, in [0, 1].

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
    soft = kl(student, teacher, temperature=temperature)
    return alpha * soft + (1 - alpha) * cross_entropy(student, labels)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy in nats, per example, from integer labels ``[...]`` or probabilities ``[..., classes]``.

    Example:
      >>> import jax.numpy as jnp
      >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)
      Array([1.3863], dtype=float32)
    """
    log_q = jax.nn.log_softmax(logits.astype(wide(logits.dtype)))
    if labels.shape == logits.shape:
        return -jnp.sum(labels.astype(log_q.dtype) * log_q, axis=-1)
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ArgumentError(
            f"labels must be integers of shape {logits.shape[:-1]} or probabilities of shape {logits.shape}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return -jnp.take_along_axis(log_q, labels[..., None], axis=-1)[..., 0]


def _check(student: Array, teacher: Array, temperature: float) -> None:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ArgumentError(f"temperature must be above 0, got {temperature}")
    if student.shape != teacher.shape:
        raise ArgumentError(f"student and teacher logits must have one shape, got {student.shape} and {teacher.shape}")
