"""The overhaul of feature distillation: a margin in place of the rectifier, a distance that skips what it cuts off."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.inputs import counted, feature_pair, real_type


def ofd(student: Array, teacher: Array, margin: Array, *, where: Any = None) -> Array:
    r"""Compares features *before* the rectifier by a partial squared distance, per example.

    With the target :math:`t = \max(teacher, m)`, the sum of :math:`(s - t)^2`, leaving out entries where
    :math:`s \le t \le 0`: both are cut off by the rectifier. No gradient reaches the teacher. Computed in float32 or
    better.

    Args:
      student: ``[batch, ..., channels]``, after a connector; the paper's is a 1x1 projection and batch norm
        (:func:`connect` with ``norm=True``).
      teacher: likewise.
      margin: ``[channels]``, each below 0, of :func:`ofd_margin`.
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``. The paper weighs its last layer by 1/1000, and each earlier one by half of the next.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> ofd(jnp.array([[1.0, -3.0, 0.0]]), jnp.array([[2.0, -4.0, -4.0]]), jnp.full(3, -0.5)).tolist()
      [1.25]

    Reference: Heo et al., A comprehensive overhaul of feature distillation, 2019.
    """
    check_arrays(margin=margin)
    student, teacher = feature_pair(student, teacher, where)
    if margin.shape != teacher.shape[-1:]:
        raise ArgumentError(f"margin must hold one number for each of {teacher.shape[-1]} channels, got {margin.shape}")
    axes = tuple(range(1, student.ndim))
    least = jax.lax.stop_gradient(jnp.asarray(margin)).astype(teacher.dtype).reshape(*(1,) * (student.ndim - 1), -1)
    target = jnp.maximum(teacher, least)
    skipped = (student <= target) & (target <= 0)  # and what is no number is not skipped
    return counted(jnp.sum(jnp.where(skipped, 0, (student - target) ** 2), axis=axes), where)


def ofd_margin(scale: Array, bias: Array) -> Array:
    r"""Takes the margin of each channel from the teacher's batch norm: the mean of its negative values.

    :math:`E[x \mid x < 0] = \beta - |\gamma|\, \varphi(\beta / \gamma) / \Phi(-\beta / |\gamma|)`, of a normal x with
    mean :math:`\beta` (the norm's bias) and deviation :math:`|\gamma|` (its scale).

    Args:
      scale: ``[channels]``.
      bias: ``[channels]``.

    Returns:
      ``[channels]``, float32 or better, at most 0.

    Example:
      >>> import jax.numpy as jnp
      >>> margin = ofd_margin(jnp.array([1.0, 1.0]), jnp.array([0.0, -3.0]))
      >>> [round(m, 3) for m in margin.tolist()]
      [-0.798, -3.004]

    Reference: Heo et al., A comprehensive overhaul of feature distillation, 2019.
    """
    check_arrays(scale=scale, bias=bias)
    real = real_type(scale, bias)
    scale, bias = jnp.abs(jnp.asarray(scale).astype(real)), jnp.asarray(bias).astype(real)
    fixed = scale == 0
    ratio = bias / jnp.where(fixed, 1, scale)
    far = ratio > 6
    near = jnp.where(far, 0, ratio)
    # In logarithms: where almost all values are negative, or none, one of density and probability rounds to 0.
    own = near - jnp.exp(jax.scipy.stats.norm.logpdf(near) - jax.scipy.stats.norm.logcdf(-near))
    # Further out the difference cancels, and its asymptotic series is good to four digits.
    inverse = 1 / jnp.where(far, ratio, 1)
    series = -inverse * (1 - inverse**2 * (2 - inverse**2 * (10 - inverse**2 * 74)))
    return jnp.where(fixed, jnp.minimum(bias, 0), scale * jnp.where(far, series, own))
