"""Connectors: a student's features in the shape of a teacher's, by learned projections, pooling and resizing."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.distill.inputs import mask_of, real_type
from jaxcomp.distill.layers import batch_norm, by_batch, dense, dense_init, norm_init, resize

KINDS = {2: "vector [batch, c]", 3: "tokens [batch, n, c]", 4: "map [batch, h, w, c]"}


class Connector(NamedTuple):
    """Connectors, from the student's features to the teacher's shape: pure functions, as of a model.

    Its values are ordinary parameters. Train them with the student's, by one optimizer, and drop them after.

    Attributes:
      init: ``key -> values``, a tree of float32 arrays; needs no features, and works under ``jax.eval_shape``.
      apply: ``(values, features, *, where=None) -> features`` of the teacher's shape, in the features' dtype.
        ``where``, ``[batch]`` bools, says which examples batch norm counts.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]


def connect(
    student_shape: Sequence[int], teacher_shape: Sequence[int], *, prefix: int = 0, norm: bool = False
) -> Connector:
    """Makes a connector from shapes alone.

    Channels, the last axis, are projected where their number differs (a 1x1 convolution). Positions are
    averaged where the teacher has fewer, and resized linearly where it has more. A map becomes tokens row by row,
    tokens a square map; a vector is the mean over positions. Shapes that are alike need no values: features pass as
    they are.

    Args:
      student_shape: ``[batch, c]``, ``[batch, tokens, c]`` or ``[batch, h, w, c]``; the batch may be any.
      teacher_shape: likewise.
      prefix: tokens before those of positions (class and distillation tokens, registers), alike in both where both are
        tokens. They are dropped where tokens become a map or a vector; where a map becomes tokens, each is the mean
        over positions.
      norm: whether batch norm follows, by the batch's own statistics, as in OFD.

    Returns:
      A :class:`Connector`.

    Raises:
      ArgumentError: for shapes that nothing joins, such as a vector where the teacher has positions, or tokens that
        make no square; by ``apply``, for features of another shape.

    Example:
      >>> import jax, jax.numpy as jnp, jaxcomp as jc
      >>> student, teacher = jnp.ones((8, 4, 4, 16)), jnp.ones((8, 2, 2, 64))
      >>> connector = connect(student.shape, teacher.shape)
      >>> values = connector.init(jax.random.key(0))
      >>> jc.distill.hint(connector.apply(values, student), teacher).shape
      (8,)
      >>> connect((8, 7, 7, 32), (8, 197, 64), prefix=1).apply is not None
      True
    """
    before, after = (tuple(int(n) for n in shape[1:]) for shape in (student_shape, teacher_shape))
    _check(before, after, prefix)

    def init(key: Array) -> Params:
        values = {} if before[-1] == after[-1] else dense_init(key, before[-1], after[-1], bias=not norm)
        return {**values, **({"norm": norm_init(after[-1])} if norm else {})}

    def apply(values: Params, features: Array, *, where: Any = None) -> Array:
        check_arrays(features=features)
        if features.shape[1:] != before:
            raise ArgumentError(f"the connector was made for features [batch, {str(before)[1:]}, got {features.shape}")
        if before == after and not norm:
            return features
        join = functools.partial(_join, after=after, prefix=prefix)
        return by_batch(join, values, jnp.asarray(features), mask_of(where, features)).astype(features.dtype)

    return Connector(init, apply)


def _join(values: Params, x: Array, mask: Array, *, after: tuple[int, ...], prefix: int) -> Array:
    x = x.astype(real_type(x))
    fewer = math.prod(after[:-1]) < math.prod(x.shape[1:-1])
    for project in (not fewer, fewer):  # both are linear: the projection goes where positions are fewer
        if not project:
            x = _move(x, after, prefix)
        elif "kernel" in values:
            x = dense(values, x)
    return batch_norm(values["norm"], x, mask) if "norm" in values else x


def _check(before: tuple[int, ...], after: tuple[int, ...], prefix: int) -> None:
    ranks = len(before) + 1, len(after) + 1
    if not {*ranks} <= KINDS.keys():
        raise ArgumentError(
            f"connect joins {', '.join(KINDS.values())}; got shapes [batch, {str(before)[1:]} and [batch, "
            f"{str(after)[1:]}"
        )
    problem = None
    if len(before) == 1 and len(after) > 1:
        problem = "a vector has no positions: give connect the student's features before they are averaged"
    for shape, other in ((before, after), (after, before)):
        if len(shape) == 2 and before != after:
            tokens = shape[0] - prefix
            square = math.isqrt(max(tokens, 0)) ** 2 == tokens
            if tokens < 1 or (len(other) > 1 and not square and before[:-1] != after[:-1]):
                problem = f"{shape[0]} tokens, {prefix} of them before those of positions, make no square: see prefix"
    if problem:
        raise ArgumentError(
            f"no connector from student features {KINDS[ranks[0]]} to teacher features {KINDS[ranks[1]]} of shapes "
            f"{before} and {after} without the batch: {problem}"
        )


def _move(x: Array, after: tuple[int, ...], prefix: int) -> Array:
    """The features at the positions of a shape, whatever their channels."""
    tokens = x.ndim == 3
    if x.shape[1:-1] == after[:-1]:
        return x
    first, x = (x[:, :prefix], x[:, prefix:]) if tokens else (None, x)
    if len(after) == 1:
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    if tokens:
        x = x.reshape(x.shape[0], *(math.isqrt(x.shape[1]),) * 2, x.shape[-1])
    size = after[:-1] if len(after) == 3 else (math.isqrt(after[0] - prefix),) * 2
    mean = jnp.mean(x, axis=(1, 2))
    x = resize(x, size)
    if len(after) == 3:
        return x
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    first = jnp.broadcast_to(mean[:, None, :], (x.shape[0], prefix, x.shape[-1])) if first is None else first
    return jnp.concatenate([first, x], axis=1) if prefix else x
