"""Sums in one fixed order and products rounded once, so that devices and compilers do not change their bits."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.meshes import replicated

_FEW = 16
_EXACT = 1 << 24


def steady_sum(values: Array, axes: Sequence[int]) -> Array:
    """Sums over axes, which stay with size 1: the same bits however the values are sharded or compiled.

    Values that are products are rounded before they are added: a compiler may fuse the two in one program alone.

    Args:
      values: ``[...]`` floating point.
      axes: counted from the front.

    Example:
      >>> steady_sum(jnp.arange(6.0).reshape(2, 3), (0,)).tolist()
      [[3.0, 5.0, 7.0]]
    """
    axes = tuple(axes)
    rest = tuple(axis for axis in range(values.ndim) if axis not in axes)
    length = math.prod(values.shape[axis] for axis in axes)
    kept = tuple(values.shape[axis] for axis in rest)
    # The barrier keeps a compiler from knowing the sum of what is constant, and dividing by it in another way.
    flat = rounded(jax.lax.optimization_barrier(replicated(values))).transpose((*axes, *rest)).reshape(length, *kept)
    return sum_runs(flat, 0, length).reshape([1 if axis in axes else n for axis, n in enumerate(values.shape)])


def counted(marks: Array, axes: Sequence[int]) -> Array:
    """Counts what is marked over axes, which stay with size 1: float32, the same bits in whatever order.

    As numbers of floating point, up to where these are no longer exact: XLA:CPU makes one kernel of their sum, at once,
    and takes nine times as long to compile a sum of integers or whether any is True.

    Args:
      marks: ``[...]``, bool.
      axes: counted from the front.

    Example:
      >>> counted(jnp.array([[True, False, True]]), (1,)).tolist()
      [[2.0]]
    """
    exact = math.prod(marks.shape[axis] for axis in axes) <= _EXACT
    total = jnp.sum(marks.astype(jnp.float32 if exact else jnp.int32), axis=tuple(axes), keepdims=True)
    return total.astype(jnp.float32)


def sum_runs(values: Array, axis: int, size: int) -> Array:
    """Sums each ``size`` neighbors along an axis, by halves: the same bits wherever the axis is sharded.

    Args:
      values: ``[...]``; the last run is filled up with zeros.
      axis: along which.
      size: neighbors in a run; 0: the axis has no elements.

    Returns:
      ``[..., runs, ...]``: ``ceil(n / size)`` along the axis.

    Example:
      >>> sum_runs(jnp.arange(5.0), 0, 2).tolist()
      [1.0, 5.0, 4.0]
    """
    runs = -(-values.shape[axis] // size) if size else 1
    values = filled_up(values, axis, runs * max(size, 1), 0)
    values = values.reshape(*values.shape[:axis], runs, max(size, 1), *values.shape[axis + 1 :])
    while size > 1:
        # Halves of halves at once, of few neighbors all: a kernel to compile, where each sum of two would be one.
        count = size if size <= _FEW else math.gcd(size, 8) if size % 2 == 0 else 2
        size = -(-size // count)
        values = filled_up(values, axis + 1, count * size, 0)
        parts = [jax.lax.slice_in_dim(values, i * size, (i + 1) * size, axis=axis + 1) for i in range(count)]
        while len(parts) > 1:
            half = -(-len(parts) // 2)
            sums = [low + high for low, high in zip(parts[:half], parts[half:], strict=False)]
            parts = sums + parts[len(sums) : half]
        (values,) = parts
    return values.squeeze(axis + 1)


def filled_up(values: Array, axis: int, size: int, value: Any) -> Array:
    """Pads ``axis`` of ``values`` at its end with ``value`` up to ``size``."""
    missing = size - values.shape[axis]
    widths = [(0, missing if i == axis else 0) for i in range(values.ndim)]
    return jnp.pad(values, widths, constant_values=value) if missing else values


def rounded(product: Array) -> Array:
    """Rounds a product before anything is added to it, in every program alike.

    A compiler may fuse product and sum into one rounding, in some programs and not in others. XLA:CPU drops an
    optimization barrier before that (JAX 0.10); a comparison it keeps.

    Args:
      product: ``[...]``, floating-point.

    Example:
      >>> float(rounded(jnp.float32(3) * 2) + 1)
      7.0
    """
    return jnp.where(jnp.isnan(product), jnp.nan, product)
