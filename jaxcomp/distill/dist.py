"""Relations in place of probabilities: the student's need only correlate with the teacher's (DIST)."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.logits import log_probabilities
from jaxcomp.core.meshes import automatic
from jaxcomp.distill.inputs import check_temperature, logit_pair, mask_of, mean_where, normalized


def dist(
    student: Array,
    teacher: Array,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float = 1.0,
    where: Any = None,
) -> Array:
    r"""Correlates probabilities over the classes of each example, and over the examples of each class: a scalar.

    :math:`T^2 (\beta\,\mathrm{mean}_i(1 - \rho(p^s_i, p^t_i)) + \gamma\,\mathrm{mean}_c(1 - \rho(p^s_{:c}, p^t_{:c})))`
    with Pearson's :math:`\rho`, and p the softmax of logits over T. What a teacher says of all examples, or classes,
    alike tells nothing and adds nothing. No gradient reaches the teacher. Computed in float32 or better.

    Args:
      student: ``[batch, classes]`` logits, of two examples or more.
      teacher: likewise; -inf for classes that it rules out.
      beta: weight within examples; the paper has 2.
      gamma: weight within classes; the paper has 2.
      temperature: above 0; the paper has 1 on ImageNet and 4 on CIFAR-100.
      where: ``[batch]`` bools; examples at False do not count. None: all do.

    Returns:
      A scalar, at least 0.

    Raises:
      ArgumentError: for a temperature that is not above 0, shapes that do not fit, or a batch of one.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
      >>> [round(float(dist(logits * k, logits)), 3) for k in (1, -1)]
      [0.0, 8.0]

    Reference: Huang et al., Knowledge distillation from a stronger teacher, 2022.
    """
    check_temperature(temperature)
    pair = logit_pair(student, teacher, where, matrix=True)
    relate = functools.partial(_dist, beta=beta, gamma=gamma, temperature=temperature)
    return automatic(relate, *pair, mask_of(where, pair[0]))


def _dist(student: Array, teacher: Array, mask: Array, *, beta: Any, gamma: Any, temperature: Any) -> Array:
    p, q = (jnp.exp(log_probabilities(z, temperature)) for z in (teacher, student))
    within = mean_where(_decorrelation(q, p, jnp.ones_like(p, bool), -1), mask)
    between = jnp.mean(_decorrelation(q, p, jnp.broadcast_to(mask[:, None], p.shape), 0))
    return temperature**2 * (beta * within + gamma * between)


def _decorrelation(x: Array, y: Array, mask: Array, axis: int) -> Array:
    """1 - Pearson's correlation along an axis, of the entries that count; 0 where ``y`` is constant."""
    count = jnp.maximum(jnp.sum(mask, axis=axis, keepdims=True), 1).astype(x.dtype)
    centered = (z - jnp.sum(jnp.where(mask, z, 0), axis=axis, keepdims=True) / count for z in (x, y))
    x, y = (normalized(jnp.where(mask, z, 0), axis) for z in centered)
    constant, tells_nothing = (jnp.all(z == 0, axis=axis) for z in (x, y))
    # Half the squared distance of unit vectors: 1 - x.y would be a rounding error where they are nearly equal.
    distance = jnp.where(constant, 1, jnp.sum((x - y) ** 2, axis=axis) / 2)
    return jnp.where(tells_nothing, 0, distance)
