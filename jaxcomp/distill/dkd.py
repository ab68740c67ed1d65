"""Decoupled distillation: the teacher's belief in the label, and its beliefs about all other classes, weighed apart."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import divergence, log_probabilities, log_total
from jaxcomp.distill.inputs import check_temperature, counted, logit_pair


def dkd(
    student: Array,
    teacher: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    where: Any = None,
) -> Array:
    r"""Decouples the divergence into target and other classes, per example.

    :math:`T^2 (\alpha\,\mathrm{KL}(b^t \Vert b^s) + \beta\,\mathrm{KL}(\hat p^t \Vert \hat p^s))`: b holds the
    probabilities of the label and of not the label, :math:`\hat p` those of the other classes given that it is none
    of them. :func:`kl` has :math:`\alpha = 1` and :math:`\beta = 1 - p^t_y`: the surer the teacher, the less it tells
    of other classes. Without a gradient to the teacher, in float32 or better.

    Args:
      student: ``[..., classes]`` logits; -inf for a class that it rules out.
      teacher: ``[..., classes]`` logits; classes at -inf add nothing.
      labels: ``[...]`` integer classes. One that names no class (-1, -100, 255, ...) leaves all classes among the
        others: such an example learns from the teacher alone.
      alpha: weight of the label's part.
      beta: weight of the others' part; the paper has 1 to 8, by the teacher: more where it is sure.
      temperature: above 0.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, in nats times temperature squared. The paper raises its weight from 0 to 1 over the first 20 of 240
      epochs.

    Raises:
      ArgumentError: for a temperature that is not above 0, labels that are no integers, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> round(dkd(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), jnp.array(0)).item(), 3)
      0.117

    Reference: Zhao et al., Decoupled knowledge distillation, 2022.
    """
    check_temperature(temperature)
    pair = logit_pair(student, teacher, where)
    own = _is_label(labels, pair[0])
    (log_s, rest_s), (log_t, rest_t) = (_decoupled(logits, own, temperature) for logits in pair)
    loss = alpha * divergence(log_t, log_s) + beta * divergence(rest_t, rest_s)
    return counted(temperature**2 * loss, where)


def _is_label(labels: Array, logits: Array) -> Array:
    """Marks the label among the classes.

    Args:
      labels: ``[...]`` integers; one that names no class marks none.
      logits: ``[..., classes]``.

    Returns:
      ``[..., classes]`` bool.

    Raises:
      ArgumentError: for labels that are no integers of the batch's shape.

    Example:
      >>> import jax.numpy as jnp
      >>> _is_label(jnp.array([1, -1]), jnp.zeros((2, 2))).tolist()
      [[False, True], [False, False]]
    """
    check_arrays(labels=labels)
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ArgumentError(
            f"labels must be integers of shape {logits.shape[:-1]}, got {labels.dtype} of shape {labels.shape}"
        )
    labels = jnp.asarray(labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels  # 300 classes are no uint8
    return labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)


def _decoupled(logits: Array, own: Array, temperature: Any) -> tuple[Array, Array]:
    """Log-probabilities ``[..., 2]`` of the label and of not the label, and ``[..., classes]`` of the others."""
    log_p = log_probabilities(logits, temperature)
    parts = [log_total(jnp.where(mask, log_p, -jnp.inf)) for mask in (own, ~own)]
    return jnp.concatenate(parts, axis=-1), log_probabilities(jnp.where(own, -jnp.inf, logits), temperature)
