"""Inputs of losses, checked and made ready: temperatures, logits, features, and which examples count."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.arrays import check_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.scalars import is_number


def check_temperature(temperature: Any) -> None:
    """Refuses a temperature that is not above 0; a traced one cannot be looked at.

    Raises:
      ArgumentError: with the temperature.
    """
    known = isinstance(temperature, np.generic) or not hasattr(temperature, "shape")
    if known and not (is_number(temperature) and temperature > 0):
        raise ArgumentError(f"temperature must be above 0, got {temperature}")


def real_type(*values: Array) -> Any:
    """Returns the dtype in which losses of real numbers are computed: float32, or float64 where one of them is.

    Raises:
      ArgumentError: for complex numbers, of which no loss would see the imaginary part.
    """
    for value in values:
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ArgumentError(
                f"losses are of real numbers, got {value.dtype} of shape {value.shape}: give its absolute values, or "
                "its real and imaginary parts side by side"
            )
    return jax.dtypes.canonicalize_dtype(wide(*(value.dtype for value in values)))  # NumPy's may be wider


def check_logits(logits: Array) -> None:
    """Refuses logits that are no array, without an axis of classes, or of none.

    Raises:
      ArgumentError: with what came.
    """
    check_arrays(logits=logits)
    if not (logits.ndim and logits.shape[-1]):
        raise ArgumentError(f"logits must be [..., classes], of a class or more, got shape {logits.shape}")


def logit_pair(student: Array, teacher: Array, where: Any = None, *, matrix: bool = False) -> tuple[Array, Array]:
    """Converts logits to the dtype to compute in, without a gradient to the teacher; 0 in examples that do not count.

    Args:
      student: ``[..., classes]``.
      teacher: likewise.
      where: ``[...]`` bools, False for examples that do not count; None: all do.
      matrix: whether they must be ``[batch, classes]``, of two examples or more.

    Raises:
      ArgumentError: for shapes that do not fit.

    Example:
      >>> pair = logit_pair(jnp.array([[1.0, 2.0], [jnp.nan, 0.0]]), jnp.ones((2, 2)), jnp.array([True, False]))
      >>> [logits.tolist() for logits in pair]
      [[[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]
    """
    check_arrays(student=student, teacher=teacher)
    if student.shape != teacher.shape:
        advice = ""
        if student.shape[:-1] == teacher.shape[:-1]:
            advice = ": jc.distill.map_classes shows logits as those of other classes"
        raise ArgumentError(
            f"student and teacher logits must have one shape, got {student.shape} and {teacher.shape}{advice}"
        )
    check_logits(student)
    if matrix:
        _check_examples(student.shape, 2, "[batch, classes] logits", ranks=(2,))
    return _ready(student, teacher, where, student.shape[:-1])


def feature_pair(
    student: Array, teacher: Array, where: Any = None, *, alike: str = "all", least: int = 1
) -> tuple[Array, Array]:
    """Converts features to the dtype to compute in, without a gradient to the teacher; 0 in examples that do not count.

    Args:
      student: ``[batch, ...]``.
      teacher: likewise.
      where: ``[batch]`` bools, False for examples that do not count; None: all do.
      alike: the axes that must agree: "all" axes, all but the last ("positions"), or the "batch".
      least: examples that the loss compares with each other, at least.

    Raises:
      ArgumentError: for shapes that do not fit.
    """
    check_arrays(student=student, teacher=teacher)
    count = {"all": None, "positions": -1, "batch": 1}[alike]
    ranks = student.ndim == teacher.ndim or alike == "batch"
    if not ranks or student.ndim < 2 or student.shape[:count] != teacher.shape[:count]:
        what = {"all": "one shape", "positions": "one shape but for channels, the last axis", "batch": "one batch"}
        raise ArgumentError(
            f"student and teacher features must have {what[alike]}, got {student.shape} and {teacher.shape}: "
            "jc.distill.connect(student.shape, teacher.shape) makes one from the other"
        )
    _check_examples(student.shape, least, "[batch, ...] features")
    if 0 in (*student.shape[1:], *teacher.shape[1:]):
        raise ArgumentError(f"features must have a number or more, got {student.shape} and {teacher.shape}")
    return _ready(student, teacher, where, student.shape[:1])


def _check_examples(shape: tuple[int, ...], least: int, what: str, ranks: tuple[int, ...] | None = None) -> None:
    """Refuses shapes of another rank than asked for, or of too few examples.

    Args:
      shape: of the logits or features.
      least: examples that are needed.
      what: the loss takes, for the error.
      ranks: that will do; None: any.

    Raises:
      ArgumentError: with the shape.
    """
    if (ranks and len(shape) not in ranks) or shape[0] < least:
        raise ArgumentError(f"the loss takes {what} of at least {least} examples, got {shape}")


def _ready(student: Array, teacher: Array, where: Any, batch: tuple[int, ...]) -> tuple[Array, Array]:
    real = real_type(student, teacher)
    pair = jnp.asarray(student).astype(real), jax.lax.stop_gradient(jnp.asarray(teacher)).astype(real)
    if where is None:
        return pair
    check_where(where, batch)
    # Before anything is computed: what is NaN in an example that does not count would make its gradient NaN.
    student, teacher = (jnp.where(expanded(where, x), x, 0) for x in pair)
    return student, teacher


def check_where(where: Any, *shapes: tuple[int, ...]) -> None:
    """Refuses a mask ``where`` that is no array of bools of one of ``shapes``.

    Raises:
      ArgumentError: with what came.
    """
    check_arrays(where=where)
    if where.shape not in shapes or where.dtype != bool:
        raise ArgumentError(
            f"where must hold bools of shape {' or '.join(map(str, shapes))}, got {where.dtype} of shape {where.shape}"
        )


def expanded(where: Array, x: Array) -> Array:
    """Reshapes a mask ``where`` of the first axes of ``x`` to broadcast against it: ``[batch, 1, ...]``."""
    return jnp.asarray(where).reshape(*where.shape, *(1,) * (x.ndim - where.ndim))


def counted(loss: Array, where: Any) -> Array:
    """Zeroes the ``loss`` ``[...]`` of examples that do not count: those at which ``where`` is False."""
    return loss if where is None else jnp.where(where, loss, 0)


def mask_of(where: Any, x: Array) -> Array:
    """Returns the mask ``where`` of the examples of ``x``, ``[batch]`` bool; for None all of them count."""
    return jnp.ones(x.shape[:1], bool) if where is None else jnp.asarray(where)


def mean_where(values: Array, mask: Array, axis: Any = None) -> Array:
    """Averages the values that count; 0 where none does.

    Args:
      values: ``[...]``.
      mask: ``[...]`` bool; what is False is left out, even if it is infinite or NaN.
      axis: or axes that are averaged over; None: all.

    Example:
      >>> mean_where(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])).item()
      2.0
    """
    # The values that do not count are left out, not multiplied by 0: they may be infinite.
    total = jnp.sum(jnp.where(mask, values, 0), axis=axis)
    return total / jnp.maximum(jnp.sum(mask, axis=axis), 1).astype(values.dtype)


def pairs_of(mask: Array) -> Array:
    """Marks pairs of two different examples that both count: ``[batch, batch]`` bool."""
    n = mask.shape[0]
    return mask[:, None] & mask[None, :] & ~jnp.eye(n, dtype=bool)


def root(x: Array) -> Array:
    """Takes the square root of ``[...]``, with a gradient of 0 at 0, where it is infinite."""
    zero = x == 0  # and what is no number shows
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def normalized(x: Array, axis: Any = -1) -> Array:
    """Divides vectors by their 2-norm along ``axis`` of ``x``; vectors of 0 stay, and have no gradient.

    Example:
      >>> normalized(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
      [[0.6..., 0.8...], [0.0, 0.0]]
    """
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    zero = square == 0
    return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, square)))


def rows(x: Array) -> Array:
    """Flattens ``[batch, ...]`` features to ``[batch, features]``."""
    return x.reshape(x.shape[0], -1)
