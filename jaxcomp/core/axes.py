"""Axes of a tensor along which each index has a scale or a codebook of its own, and the size of its first weights."""

import math

import numpy as np

from jaxcomp.core.errors import ArgumentError

Axes = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def own_axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    """Counts the axes that have scales of their own from the front; a scalar has one scale whatever ``axis`` says.

    Args:
      axis: one, several, or None, of a tensor of ``ndim`` axes; negative ones count from the end.
      ndim: number of axes.

    Raises:
      ArgumentError: for what is no number of an axis, and for an axis that the tensor lacks.

    Example:
      >>> own_axes(-1, 4), own_axes(None, 4), own_axes(-1, 0)
      ((3,), (), ())
    """
    if axis is None or ndim == 0:
        return ()
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    for a in axes:
        if not isinstance(a, int | np.integer):
            raise ArgumentError(f"axis must be the number of an axis, a tuple of them, or None; got {axis!r}")
        if not -ndim <= a < ndim:
            raise ArgumentError(
                f"axis {a} has a scale for each index, but the tensor has {ndim} axes; choose tensors that have it "
                "with jc.partition"
            )
    return tuple(sorted({int(a) % ndim for a in axes}))


def usual_size(shape: Shape) -> float:
    r"""Returns the size with which a layer's weights begin: :math:`1 / \sqrt{n}` of n inputs, all axes but the last.

    The scale of a grid for weights that are all 0, which have none. Axes of symbolic size, as of an exported batch,
    count as 1.

    Example:
      >>> usual_size((4, 4, 7)), usual_size((4,))
      (0.25, 0.5)
    """
    sizes = [size for size in (shape[:-1] if len(shape) > 1 else shape) if isinstance(size, int)]
    return 1 / math.sqrt(max(math.prod(sizes), 1))
