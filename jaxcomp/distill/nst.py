"""Neuron selectivity transfer: the distribution of the channels' activity patterns."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.inputs import counted, feature_pair, normalized

KERNELS = ("polynomial", "gaussian", "linear")


def nst(student: Array, teacher: Array, *, kernel: str = "polynomial", where: Any = None) -> Array:
    r"""Compares the sets of the channels' patterns by their maximum mean discrepancy, per example.

    A channel's values at all positions, scaled to length 1, are one sample f:
    :math:`\mathrm{mean}_{cc'} k(t_c, t_{c'}) + \mathrm{mean}\, k(s_c, s_{c'}) - 2\, \mathrm{mean}\, k(s_c, t_{c'})`.
    The kernels k(x, y): polynomial :math:`(x \cdot y)^2`; linear :math:`x \cdot y`; Gaussian
    :math:`\exp(-\lVert x - y \rVert^2 / 2\sigma^2)` with :math:`\sigma^2` the mean squared distance between samples
    of the student and of the teacher, a constant to the gradient. No gradient reaches the teacher. Computed in float32
    or better.

    Args:
      student: ``[batch, ..., channels]``, with one axis of positions or more.
      teacher: likewise, at the same positions; of any number of channels.
      kernel: "polynomial", "gaussian" or "linear".
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``, at least 0 but for rounding. Tian et al. (2020) weigh the polynomial kernel's by 50.

    Raises:
      ArgumentError: for another kernel, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0, 0.0], [3.0, 1.0]]])
      >>> nst(student, teacher).tolist()
      [2.0]

    Reference: Huang and Wang, Like what you like: knowledge distill via neuron selectivity transfer, 2017.
    """
    if kernel not in KERNELS:
        raise ArgumentError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    pair = feature_pair(student, teacher, where, alike="positions")
    if student.ndim < 3:
        raise ArgumentError(f"nst takes [batch, positions..., channels], got {student.shape}")
    s, t = (normalized(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1) for x in pair)
    return counted(_discrepancy(s, t, kernel), where)


def _discrepancy(s: Array, t: Array, kernel: str) -> Array:
    if kernel == "linear":  # of which the mean is the kernel of the means
        return jnp.sum((jnp.mean(s, axis=2) - jnp.mean(t, axis=2)) ** 2, axis=1)
    spread = jnp.ones((s.shape[0], 1, 1), s.dtype)
    if kernel == "gaussian":
        spread = jax.lax.stop_gradient(jnp.mean(_squares(s, t), axis=(1, 2), keepdims=True))
        spread = jnp.where(spread == 0, 1, spread)  # all samples are one, and any kernel is 1

    def mean(x: Array, y: Array) -> Array:
        k = jnp.exp(-_squares(x, y) / (2 * spread)) if kernel == "gaussian" else _products(x, y) ** 2
        return jnp.mean(k, axis=(1, 2))

    return mean(t, t) + mean(s, s) - 2 * mean(s, t)


def _products(x: Array, y: Array) -> Array:
    return jnp.einsum("bic,bid->bcd", x, y)


def _squares(x: Array, y: Array) -> Array:
    """Squared distances of all pairs of samples, ``[batch, channels of x, channels of y]``."""
    own, other = (jnp.sum(z * z, axis=1) for z in (x, y))
    return jnp.maximum(own[:, :, None] + other[:, None, :] - 2 * _products(x, y), 0)
