"""Axes of a tensor along which each index has a scale or a codebook of its own, and the size of its first weights."""

import math

from jaxcomp.core.errors import ArgumentError

Axes = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def own_axes(axis: Axes, ndim: int) -> tuple[int, ...]:
    """The axes with scales of their own, counted from the front. A scalar has one scale whatever the axis.

    Raises:
      ArgumentError: for an axis that the tensor lacks.
    """
    if axis is None or ndim == 0:
        return ()
    axes = (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -ndim <= a < ndim:
            raise ArgumentError(
                f"axis {a} has a scale for each index, but the tensor has {ndim} axes; choose tensors that have it "
                "with jc.partition"
            )
    return tuple(sorted({a % ndim for a in axes}))


def usual_size(shape: Shape) -> float:
    r"""The size of the weights with which a layer begins: :math:`1 / \sqrt{n}` of n inputs, all axes but the last.

    What a grid of zeros goes by, which is none. Axes of any size, as of a batch that is exported, count as one.

    Example:
      >>> usual_size((4, 4, 7)), usual_size((4,))
      (0.25, 0.5)
    """
    sizes = [size for size in (shape[:-1] if len(shape) > 1 else shape) if isinstance(size, int)]
    return 1 / math.sqrt(max(math.prod(sizes), 1))
