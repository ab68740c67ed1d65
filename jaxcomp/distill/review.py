"""Knowledge review: a layer of the teacher teaches all student layers from there on, fused from the deepest."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.distill.inputs import counted, feature_pair, mask_of
from jaxcomp.distill.layers import batch_norm, by_batch, conv, dense, dense_init, norm_init, pool, repeat
from jaxcomp.distill.learned_loss import LearnedLoss

Shape = Sequence[int]
LEVELS = (4, 2, 1)


def review(
    student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], *, width: int | None = None
) -> LearnedLoss:
    """Fuses the student's layers from the deepest to the first, and compares each fusion with the teacher's layer.

    Attention-based fusion (ABF): a layer's features, projected to ``width`` channels, and what came from the deeper
    layers, resized, are weighed against each other at each position by a learned attention; a 3x3 convolution makes the
    teacher's channels of the sum. Each is compared by :func:`hierarchical`; the losses of layers are added.
    ``apply(values, students, teachers, where=None) -> [batch]``, of sequences of features in the order of the shapes.
    No gradient reaches the teacher. Batch norm is by the batch's own statistics.

    Args:
      student_shapes: ``[batch, h, w, channels]`` of each layer, from the first to the deepest.
      teacher_shapes: likewise, as many.
      width: channels to fuse at; None: those of the student's deepest layer, 512 at most.

    Returns:
      A :class:`LearnedLoss`. The paper weighs it by 1 on ImageNet and, by the pair of networks, by up to 8 on
      CIFAR-100, and raises the weight from 0 over the first 20 of 240 epochs.

    Raises:
      ArgumentError: for numbers of layers that differ, or shapes that are no maps; by ``apply``, for features that do
        not fit.

    Example:
      >>> import jax
      >>> loss = review([(8, 4, 4, 8), (8, 2, 2, 16)], [(8, 4, 4, 32), (8, 2, 2, 64)])
      >>> values = jax.eval_shape(loss.init, jax.random.key(0))
      >>> values[0]["attend"]["kernel"].shape, values[1]["expand"]["kernel"].shape
      ((32, 2), (3, 3, 16, 64))

    Reference: Chen et al., Distilling knowledge via knowledge review, 2021.
    """
    shapes = [tuple(tuple(int(n) for n in shape) for shape in each) for each in (student_shapes, teacher_shapes)]
    if len(shapes[0]) != len(shapes[1]) or not shapes[0] or any(len(s) != 4 for each in shapes for s in each):
        raise ArgumentError(
            "review takes [batch, h, w, channels] of as many student layers as teacher layers, got "
            f"{list(shapes[0])} and {list(shapes[1])}"
        )
    inner = width or min(512, shapes[0][-1][-1])

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(shapes[0]))
        last = len(keys) - 1
        pairs = zip(keys, *shapes, strict=True)
        return [_fusion_init(k, s[-1], inner, t[-1], fuses=i < last) for i, (k, s, t) in enumerate(pairs)]

    def apply(values: Params, students: Sequence[Array], teachers: Sequence[Array], *, where: Any = None) -> Array:
        if len(students) != len(values) or len(teachers) != len(values):
            raise ArgumentError(f"the loss was made for {len(values)} layers, got {len(students)} and {len(teachers)}")
        deeper, total = None, None
        for own, student, teacher in reversed(list(zip(values, students, teachers, strict=True))):
            student, teacher = feature_pair(student, teacher, where, alike="batch")
            fuse = functools.partial(_fuse, size=teacher.shape[1:3])
            fused, deeper = by_batch(fuse, own, student, deeper, mask_of(where, student))
            loss = hierarchical(fused, teacher, where=where)
            total = loss if total is None else total + loss
        return total  # type: ignore[return-value]

    return LearnedLoss(init, apply)


def hierarchical(student: Array, teacher: Array, *, where: Any = None) -> Array:
    r"""Compares features at four scales, per example: the hierarchical context loss (HCL).

    The mean squared difference, and that of features averaged to 4x4, 2x2 and 1x1, weighed by 1, 1/2, 1/4 and 1/8 over
    the sum of these; scales that are not smaller than the map are left out, and the later ones move up. No gradient
    reaches the teacher.

    Args:
      student: ``[batch, h, w, channels]``.
      teacher: likewise.
      where: ``[batch]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[batch]``.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((1, 2, 2, 1)).at[0, 0].set(-1.0)
      >>> round(hierarchical(x, jnp.zeros_like(x)).item(), 4)
      0.6667

    Reference: Chen et al., Distilling knowledge via knowledge review, 2021.
    """
    student, teacher = feature_pair(student, teacher, where)
    if student.ndim != 4:
        raise ArgumentError(f"hierarchical takes [batch, h, w, channels], got {student.shape}")
    difference = student - teacher  # averaging is linear
    scales = [difference, *(pool(difference, (n, n)) for n in LEVELS if n < min(difference.shape[1:3]))]
    weights = [0.5**i for i in range(len(scales))]
    losses = [w * jnp.mean(x * x, axis=(1, 2, 3)) for w, x in zip(weights, scales, strict=True)]
    return counted(functools.reduce(jnp.add, losses) / sum(weights), where)


def _fusion_init(key: Array, inputs: int, inner: int, outputs: int, *, fuses: bool) -> Params:
    keys = jax.random.split(key, 3)
    values = {
        "reduce": dense_init(keys[0], inputs, inner, bias=False),
        "reduce_norm": norm_init(inner),
        "expand": dense_init(keys[1], inner, outputs, window=(3, 3), bias=False),
        "expand_norm": norm_init(outputs),
    }
    return values | ({"attend": dense_init(keys[2], 2 * inner, 2)} if fuses else {})


def _fuse(values: Params, x: Array, deeper: Array | None, mask: Array, *, size: Any) -> tuple[Array, Array]:
    """Features of the teacher's shape, and what goes on to the layer before."""
    x = batch_norm(values["reduce_norm"], dense(values["reduce"], x), mask)
    if deeper is not None:
        deeper = repeat(deeper, x.shape[1:3])
        weights = jax.nn.sigmoid(dense(values["attend"], jnp.concatenate([x, deeper], axis=-1)))
        x = x * weights[..., :1] + deeper * weights[..., 1:]
    return batch_norm(values["expand_norm"], conv(values["expand"], repeat(x, size)), mask), x
