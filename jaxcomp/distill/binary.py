"""Multi-label distillation: each class is a yes or a no of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import divergence, expected_log
from jaxcomp.distill.inputs import check_logits, check_temperature, check_where, counted, logit_pair, real_type


def binary_kl(student: Array, teacher: Array, *, temperature: float = 1.0, where: Any = None) -> Array:
    r"""Sums the divergences of each class's yes and no, per example.

    :math:`T^2 \sum_c \mathrm{KL}(\sigma(t_c / T) \Vert \sigma(s_c / T))`. No gradient reaches the teacher. Computed in
    float32 or better.

    Args:
      student: ``[..., classes]`` logits, of sigmoids; -inf is a certain no.
      teacher: likewise.
      temperature: above 0.
      where: ``[...]`` or ``[..., classes]`` bools; examples or classes at False add nothing. None: all count.

    Returns:
      ``[...]``, in nats times temperature squared.

    Raises:
      ArgumentError: for a temperature that is not above 0, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> round(binary_kl(jnp.array([0.0, 5.0]), jnp.array([jnp.log(3.0), 5.0])).item(), 4)
      0.1308

    Reference: Yang et al., Multi-label knowledge distillation, 2023.
    """
    check_temperature(temperature)
    student, teacher = logit_pair(student, teacher)
    if where is not None:
        check_where(where, student.shape[:-1], student.shape)
        where = where if where.ndim == student.ndim else where[..., None]
        student, teacher = (jnp.where(where, x, 0) for x in (student, teacher))
    return jnp.sum(counted(divergence(*(_yes_no(z, temperature) for z in (teacher, student))), where), axis=-1) * (
        temperature**2
    )


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    r"""Sums :math:`-y_c \log \sigma(z_c) - (1 - y_c) \log(1 - \sigma(z_c))` over the classes, per example.

    Args:
      logits: ``[..., classes]``.
      labels: ``[..., classes]``: 0 or 1, or probabilities. A negative one is unknown and adds nothing.

    Returns:
      ``[...]``, in nats, float32 or better.

    Raises:
      ArgumentError: for labels of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> round(binary_cross_entropy(jnp.zeros(3), jnp.array([1, 0, -1])).item(), 4)
      1.3863
    """
    check_arrays(logits=logits, labels=labels)
    if labels.shape != logits.shape:
        raise ArgumentError(f"labels must be of the logits' shape {logits.shape}, got {labels.shape}")
    check_logits(logits)
    real = real_type(logits)
    unknown = labels < 0
    yes = jnp.where(unknown, 0, labels).astype(real)
    terms = -expected_log(jnp.stack([yes, 1 - yes], axis=-1), _yes_no(jnp.asarray(logits).astype(real), 1.0))
    return jnp.sum(jnp.where(unknown, 0, terms), axis=-1)


def _yes_no(logits: Array, temperature: Any) -> Array:
    """Log-probabilities of yes and no, ``[..., 2]``."""
    softened = logits / temperature
    return jnp.stack([jax.nn.log_sigmoid(softened), jax.nn.log_sigmoid(-softened)], axis=-1)
