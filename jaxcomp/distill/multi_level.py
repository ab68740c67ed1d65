"""Multi-level logit distillation: examples, relations of examples and of classes, at several temperatures."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.logits import divergence, log_probabilities
from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import check_temperature, logit_pair, mask_of, mean_where


def multi_level(
    student: Array,
    teacher: Array,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    where: Any = None,
) -> Array:
    r"""Aligns predictions by example, by batch and by class, summed over temperatures: a scalar.

    With p and q, ``[n, classes]``, the softmax of the teacher's and the student's logits over T, the sum over T of

    .. math:: \tfrac{T^2}{n} \mathrm{KL}(p \Vert q) + \tfrac1n \lVert p p^\top - q q^\top \rVert_F^2
       + \tfrac1C \lVert p^\top p - q^\top q \rVert_F^2 .

    No gradient reaches the teacher. Computed in float32 or better. The paper shows the network a weak and a strong
    augmentation of each image and adds the losses of both; and it leaves out, at some temperatures, examples and
    classes of which the teacher is unsure: :math:`where` can.

    Args:
      student: ``[batch, classes]`` logits, of two examples or more.
      teacher: likewise; -inf for classes that it rules out.
      temperatures: each above 0.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar, at least 0 but for rounding.

    Raises:
      ArgumentError: for no temperatures, one that is not above 0, shapes that do not fit, or a batch of one.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
      >>> [round(float(multi_level(logits * k, logits)), 2) for k in (1, 0)]
      [0.0, 1.55]

    Reference: Jin, Wang and Lin, Multi-level logit distillation, 2023.
    """
    if not temperatures:
        raise ArgumentError("temperatures must hold at least one, got none")
    for temperature in temperatures:
        check_temperature(temperature)
    pair = logit_pair(student, teacher, where, matrix=True)
    return automatic(functools.partial(_levels, temperatures=temperatures), *pair, mask_of(where, pair[0]))


def _levels(student: Array, teacher: Array, mask: Array, *, temperatures: Sequence[float]) -> Array:
    count = jnp.maximum(jnp.sum(mask), 1).astype(student.dtype)
    total = jnp.zeros((), student.dtype)
    for temperature in temperatures:
        log_p, log_q = (log_probabilities(z, temperature) for z in (teacher, student))
        p, q = (jnp.where(mask[:, None], jnp.exp(z), 0) for z in (log_p, log_q))
        total += temperature**2 * mean_where(divergence(log_p, log_q), mask)
        total += jnp.sum((p @ p.T - q @ q.T) ** 2) / count
        total += jnp.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]
    return total
