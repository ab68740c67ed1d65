"""Granularity: which weights share a scale: a tensor, an index of some axes, or a block along the other axes."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.axes import Axes, Shape, own_axes
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import along, replicated, spread_like
from jaxcomp.core.reproducible import counted, filled_up
from jaxcomp.core.types import Block, Grid


class ScaleGroups(NamedTuple):
    """A tensor laid out so that the weights that share a scale lie along some axes.

    Attributes:
      values: ``[...]``; blocks lie along axis 1, filled up with zeros.
      shared: those axes.
      weights: None, or by how much each value counts, 0 where it fills up; broadcasts against values.
    """

    values: Array
    shared: tuple[int, ...]
    weights: Array | None = None


def block_of(shape: Shape, axis: Axes, size: int | None) -> Block | None:
    """Describes how a tensor is cut into blocks, along all axes but those with scales of their own.

    Args:
      shape: of the tensor.
      axis: the axis or axes with scales of their own; None: -1.
      size: weights of a block; None: no blocks.

    Raises:
      ArgumentError: if no axis is left to cut, or the size is no whole number of at least 1.

    Example:
      >>> block_of((3, 8, 4), -1, 16), block_of((8, 4), None, None)
      (Block(size=16, axes=(2,)), None)
    """
    if size is None:
        return None
    check_block(size)
    axes = own_axes(-1 if axis is None else axis, len(shape))
    if len(axes) == len(shape):
        raise ArgumentError(
            f"blocks of {size} lie along the reduction, and a tensor of shape {shape} has none: "
            "give this quantizer kernels alone (jc.partition), or axis=() to cut the whole tensor"
        )
    return Block(size, axes)


def check_block(size: Any) -> None:
    """Raises an ArgumentError for what is no number of weights: neither None nor a whole number of at least 1."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ArgumentError(f"block must be a whole number of weights of at least 1, or None; got {size!r}")


def groups(w: Array, axis: Axes = None, block: Block | None = None) -> ScaleGroups:
    """Groups the numbers of a tensor by the scale that they share.

    Args:
      w: ``[...]``.
      axis: where each index has a scale of its own, without blocks.
      block: how it is cut.

    Example:
      >>> groups(jnp.arange(6.0).reshape(3, 2), block=Block(2, (1,))).values[:, :, 0].tolist()
      [[0.0, 2.0], [4.0, 0.0]]
    """
    if block is None:
        own = own_axes(axis, w.ndim)
        return ScaleGroups(w, tuple(a for a in range(w.ndim) if a not in own))
    cut, own_sizes = _cut(w.shape, block), [w.shape[a] for a in block.axes]
    full = cut.number * cut.size
    flat = replicated(w).transpose((*cut.shared, *block.axes)).reshape(cut.length, *own_sizes)
    values = filled_up(flat, 0, full, 0).reshape(cut.number, cut.size, *own_sizes)
    if full == cut.length:
        return ScaleGroups(values, (1,))
    real = np.arange(full).reshape(cut.number, cut.size, *[1] * len(own_sizes)) < cut.length
    return ScaleGroups(values, (1,), jnp.asarray(real, w.dtype))


def all_zero(w: Array, axis: Axes = None, block: int | None = None) -> Array:
    """Marks the scales all of whose weights are 0, in the layout of a grid.

    Args:
      w: ``[...]``.
      axis: the axis or axes with scales of their own.
      block: weights of a block; None: no blocks.

    Example:
      >>> all_zero(jnp.array([[0.0, 1.0], [0.0, 0.0]]), axis=-1).tolist()
      [[True, False]]
    """
    cut = block_of(w.shape, axis, block)
    laid = groups(w, axis, cut)
    return place(counted(laid.values != 0, laid.shared) == 0, w.shape, cut)


def grid_shape(shape: Shape, block: Block) -> Shape:
    """Returns the shape of the scales of a tensor of ``shape``: one for each ``block`` along the cut axis, else 1.

    Example:
      >>> grid_shape((3, 5), Block(2, (1,)))
      (2, 5)
    """
    cut = _cut(shape, block)
    return tuple(cut.number if a == cut.shared[-1] else n if a in block.axes else 1 for a, n in enumerate(shape))


def place(numbers: Array, shape: Shape, block: Block | None) -> Array:
    """Lays numbers of groups out as a grid.

    Args:
      numbers: ``[groups, 1, ...]``, or 1 along the shared axes without blocks.
      shape: of the tensor.
      block: how it is cut; None: it is not.

    Example:
      >>> place(jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]]), (3, 2), Block(2, (1,))).tolist()
      [[1.0, 2.0], [3.0, 4.0]]
    """
    if block is None:
        return numbers
    first = (_cut(shape, block).shared[-1], *block.axes)
    return numbers.squeeze(1).transpose(_back(first)).reshape(grid_shape(shape, block))


def spread(numbers: Any, shape: Shape, block: Block | None) -> Any:
    """Spreads a grid's numbers so that they broadcast against the tensor.

    Args:
      numbers: scales or zero points, of JAX or NumPy.
      shape: of the tensor.
      block: how it is cut; None: it is not.

    Example:
      >>> spread(np.array([[1, 2], [3, 4]]), (3, 2), Block(2, (1,))).tolist()
      [[1, 2], [1, 2], [3, 4]]
    """
    if block is None:
        return numbers
    cut = _cut(shape, block)
    *rest, last = cut.shared
    rows = numbers.transpose((*rest, last, *block.axes)).reshape(cut.number, *(shape[a] for a in block.axes))
    order = (*cut.shared, *block.axes)
    return rows.repeat(cut.size, 0)[: cut.length].reshape([shape[a] for a in order]).transpose(_back(order))


def numbers_for(w: Array, grid: Grid) -> tuple[Array, Array]:
    """Returns scale and zero point of ``grid``, in the scale's float, as they broadcast against ``w``."""
    scale, zero_point = grid.scale, grid.zero_point.astype(grid.scale.dtype)
    if grid.block is None:
        if not all(n in (1, size) for n, size in zip(scale.shape[::-1], w.shape[::-1], strict=False)):
            raise ArgumentError(f"a grid of scales {scale.shape} is of no tensor {w.shape}: fit one to this tensor")
        return along(scale, w), along(zero_point, w)
    scale, zero_point = (spread(numbers, w.shape, grid.block) for numbers in (scale, zero_point))
    return spread_like(scale, w), spread_like(zero_point, w)


class _Cut(NamedTuple):
    shared: tuple[int, ...]
    length: int
    size: int
    number: int


def _cut(shape: Shape, block: Block) -> _Cut:
    """The axes that are flattened, their length, and the size and number of its blocks."""
    shared = tuple(a for a in range(len(shape)) if a not in block.axes)
    length = math.prod(shape[a] for a in shared)
    size = max(1, min(block.size, length))
    return _Cut(shared, length, size, -(-length // size))


def _back(order: tuple[int, ...]) -> tuple[int, ...]:
    """The transposition that undoes one."""
    return tuple(order.index(axis) for axis in sorted(order))
