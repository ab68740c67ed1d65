"""Variational information distillation: a likelihood whose variance is learned, channel by channel."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.distill.inputs import counted, feature_pair
from jaxcomp.distill.learned_loss import LearnedLoss


def vid(teacher_shape: Sequence[int], *, variance: float = 5.0, floor: float = 1e-5) -> LearnedLoss:
    r"""Takes how unlikely the teacher's features are, given the student's: channels that cannot be learned count less.

    :math:`\mathrm{mean}\, \tfrac12 (\log \sigma_c^2 + (t - s)^2 / \sigma_c^2)` over positions and channels, with
    :math:`\sigma_c^2 = \mathrm{softplus}(a_c) + floor` learned. s, the student's features after a connector, is the
    mean that the teacher's are expected at; the paper's is three 1x1 convolutions. ``apply(values, student, teacher,
    where=None) -> [batch]``, which may be negative. No gradient reaches the teacher. Computed in float32 or better.

    Args:
      teacher_shape: ``[batch, ..., channels]``, of the features.
      variance: before training, above ``floor``.
      floor: below which no variance goes, above 0.

    Returns:
      A :class:`LearnedLoss` of one number a channel. The paper's code weighs each layer by 1.

    Raises:
      ArgumentError: for numbers out of range; by ``apply``, for shapes that do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = vid((4, 8))
      >>> round(loss.apply(loss.init(jax.random.key(0)), jnp.zeros((1, 8)), jnp.zeros((1, 8))).item(), 4)
      0.8047

    Reference: Ahn et al., Variational information distillation for knowledge transfer, 2019.
    """
    if not len(teacher_shape):
        raise ArgumentError("teacher_shape must be of features, [batch, ..., channels], got ()")
    if not 0 < floor < variance:
        raise ArgumentError(f"variance must be above floor, and that above 0, got {variance} and {floor}")
    channels = int(teacher_shape[-1])
    raw = math.log(math.expm1(variance - floor))

    def init(key: Array) -> Params:
        del key  # nothing is drawn
        return {"variance": jnp.full(channels, raw, jnp.float32)}

    def apply(values: Params, student: Array, teacher: Array, *, where: Any = None) -> Array:
        student, teacher = feature_pair(student, teacher, where)
        if teacher.shape[-1] != channels:
            raise ArgumentError(f"the loss was made for features of {channels} channels, got {teacher.shape}")
        axes = tuple(range(1, student.ndim))
        learned = jax.nn.softplus(values["variance"].astype(student.dtype)) + floor
        sigma = learned.reshape(*(1,) * len(axes), -1)
        return counted(jnp.mean((jnp.log(sigma) + (teacher - student) ** 2 / sigma) / 2, axis=axes), where)

    return LearnedLoss(init, apply)
