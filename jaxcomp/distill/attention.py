"""Attention transfer: where a feature map is active, all channels together."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.inputs import counted, feature_pair, normalized


def attention(student: Array, teacher: Array, *, power: float = 2, where: Any = None) -> Array:
    r"""Compares maps of activity, per example.

    :math:`\mathrm{mean}_i (a^s_i - a^t_i)^2`, with :math:`a_i = \sum_c |x_{ic}|^p` over the channels at position i,
    scaled to length 1 over positions. Student and teacher may have any number of channels. No gradient reaches the
    teacher. Computed in float32 or better.

    Args:
      student: ``[batch, ..., channels]``, with one axis of positions or more.
      teacher: likewise, at the same positions.
      power: p, at least 1.
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``. The paper weighs it by 1000 / 2, Tian et al. (2020) by 1000.

    Raises:
      ArgumentError: for a power below 1, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> attention(jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0, 0.0], [3.0, 3.0]]])).tolist()
      [1.0]

    Reference: Zagoruyko and Komodakis, Paying more attention to attention, 2017.
    """
    if not power >= 1:
        raise ArgumentError(f"power must be at least 1, got {power}")
    pair = feature_pair(student, teacher, where, alike="positions")
    if student.ndim < 3:
        raise ArgumentError(f"attention takes [batch, positions..., channels], got {student.shape}")
    student, teacher = (normalized(_map(x, power)) for x in pair)
    return counted(jnp.mean((student - teacher) ** 2, axis=-1), where)


def _map(x: Array, power: float) -> Array:
    """``[batch, positions]``: how active each is."""
    activity = jnp.sum(x * x if power == 2 else jnp.abs(x) ** power, axis=-1)
    return activity.reshape(activity.shape[0], -1)
