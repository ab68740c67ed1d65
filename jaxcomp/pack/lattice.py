"""Values on a grid: their codes, where they give back the values' very bits, and the values of codes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.types import Block, Grid
from jaxcomp.pack import fields
from jaxcomp.pack.pieces import Owners, fits
from jaxcomp.pack.regrid import levels_of, nearest
from jaxcomp.pack.streams import expand_into, squeeze
from jaxcomp.quant.formats import named
from jaxcomp.quant.granularity import grid_shape


class Lattice(NamedTuple):
    """Levels times scales.

    Attributes:
      scale: ``[numbers]``, in the dtype in which levels are multiplied by it.
      owner: which of them is whose.
      format: the name of the codes' format; None: integers.
      shifts: ``[numbers]`` int64: what is added to a step to make a code; None: nothing.
    """

    scale: np.ndarray
    owner: Owners
    format: str | None
    shifts: np.ndarray | None = None

    def steps(self, flat: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Returns the codes less zero points of ``flat`` at ``positions``, int64; None if any bits would differ."""
        full = self._of(self.scale, positions)
        with np.errstate(all="ignore"):
            steps = nearest(flat.astype(np.float64) / full.astype(np.float64), self.format)
        if not (np.abs(steps) < 2**31).all():
            return None
        steps = steps.astype(np.int64)
        again = _values_at(levels_of(steps, self.format), full, flat.dtype)
        word = f"u{flat.itemsize}"
        same = again.view(word) == flat.view(word)
        return steps if (same | ((steps == 0) & (flat == 0))).all() else None

    def codes(self, steps: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Adds the zero points at ``positions`` to ``steps``."""
        return steps if self.shifts is None else steps + self._of(self.shifts, positions)

    def values(self, codes: np.ndarray, positions: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Returns steps and values of codes.

        Args:
          codes: integers.
          positions: of each.
          dtype: of the values.

        Raises:
          ValueError: for codes that the format does not have.
        """
        steps = codes if self.shifts is None else codes - self._of(self.shifts, positions)
        _check_steps(steps, self.format)
        return steps, _values_at(levels_of(steps, self.format), self._of(self.scale, positions), dtype)

    def _of(self, numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return numbers[:1] if self.owner.single else numbers[self.owner(positions)]


def working_dtype(dtype: np.dtype) -> np.dtype:
    """Returns the dtype in which levels are multiplied by scales."""
    return np.dtype("<f8" if dtype == np.float64 else "<f4")


def _values_at(levels: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Multiplies ``levels`` by a ``scale`` as the fake quantizer does: one product, then one cast to ``dtype``."""
    with np.errstate(all="ignore"):
        return (levels.astype(scale.dtype) * scale).astype(dtype)


def lattice_of(array: np.ndarray, grid: Grid, format: str | None) -> Lattice | None:
    """Makes the lattice of a grid, whether or not the values lie on it; None if it can be none of the tensor.

    Args:
      array: ``[...]``, the tensor.
      grid: scale and zero point that broadcast against it, in blocks or not.
      format: the name of the codes' format; None: integers.
    """
    if format is not None and named(format).kind in ("integer", "sign"):
        format = None  # codes that are their own levels
    scale = np.asarray(grid.scale).astype(working_dtype(array.dtype))
    scale = scale.reshape((1,) * (array.ndim - scale.ndim) + scale.shape)
    if not is_real(array) or not fits(array.shape, scale.shape, grid.block) or not _are_scales(scale):
        return None
    shifts, zero_point = None, np.asarray(grid.zero_point)
    if zero_point.size > 1 and zero_point.size == scale.size and (zero_point != zero_point.flat[0]).any():
        # Codes less zero points would do, but where channels differ in them they span more bits than codes.
        shifts = zero_point.reshape(-1).astype(np.int64)
        shifts = shifts if fields.packings(fields.span(shifts)) else None
    return Lattice(scale.reshape(-1), Owners(array.shape, scale.shape, grid.block), format, shifts)


def is_real(array: np.ndarray) -> bool:
    """Returns whether values could lie on a grid."""
    return bool(array.size) and jax.dtypes.issubdtype(array.dtype, np.floating)


def described(lattice: Lattice, grid: Grid, ndim: int) -> tuple[list[Any], list[Any]]:
    """Describes a lattice as numbers and streams: ``[axes, packing of zero points, format, size and axes of blocks]``.

    Args:
      lattice: of the tensor.
      grid: it was made of.
      ndim: the tensor's number of axes.
    """
    shape = np.shape(grid.scale)
    axes = [axis for axis, size in enumerate((1,) * (ndim - len(shape)) + shape) if size != 1]
    streams = [squeeze(lattice.scale.tobytes(), lattice.scale.itemsize)]
    more: list[Any] = [lattice.format] if lattice.format or grid.block else []
    if grid.block is not None:
        more += [grid.block.size, list(grid.block.axes)]
    if lattice.shifts is None:
        return [axes, None, *more] if more else [axes], streams
    forms = [(way, fields.to_fields(lattice.shifts, way)) for way in fields.packings(fields.span(lattice.shifts))]
    packed = [(way, squeeze(raw.tobytes(), raw.shape[1])) for way, raw in forms]
    way, stream = min(packed, key=lambda form: len(form[1]))
    return [axes, way, *more], [*streams, stream]


def again(args: list[Any], streams: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> Lattice:
    """Makes the lattice that was described, checked.

    Args:
      args, streams: of :func:`described`.
      shape, dtype: of the tensor.

    Raises:
      ValueError: for what :func:`described` does not give.
    """
    axes, shift, format, block = _checked_args(args, shape, dtype)
    scales, *shifts = streams
    if len(shifts) != (shift is not None):
        raise ValueError(f"{len(streams)} streams are not those of scales, and of zero points where there are any")
    if block is None:
        numbers_shape = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    else:
        numbers_shape = grid_shape(shape, block)
    scale = np.zeros(numbers_shape, working_dtype(dtype)).reshape(-1)
    expand_into(scales, scale.view(np.uint8).reshape(scale.size, scale.itemsize))
    if not _are_scales(scale):
        raise ValueError("a scale is positive and finite, and some here are not")
    points = None
    if shift is not None:
        stored = fields.Integers(shift, shifts[0], scale.size)
        points = stored.take(scale.size)
        stored.close()
    return Lattice(scale, Owners(shape, numbers_shape, block), format, points)


def _checked_args(args: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, ...]:
    """The axes of scales; how zero points are packed; their format; their blocks."""
    padded = [*args, *[None] * (5 - len(args))]
    axes, shift, format, size, own = padded
    if not jax.dtypes.issubdtype(dtype, np.floating):
        raise ValueError(f"codes on a grid are no {dtype}")
    for found in (axes, *([] if own is None else [own])):
        if not all(type(axis) is int and 0 <= axis < len(shape) for axis in found) or len(set(found)) != len(found):
            raise ValueError(f"{found!r} are no axes of an array of shape {shape}")
    if (size is None) != (own is None) or (size is not None and (type(size) is not int or size < 1)):
        raise ValueError(f"a block is a whole number of values along axes, not {size!r} along {own!r}")
    return axes, shift, format, None if size is None else Block(size, tuple(own))


def _are_scales(scale: np.ndarray) -> bool:
    return bool(((scale > 0) & (scale < np.inf)).all())


def _check_steps(steps: np.ndarray, format: str | None) -> None:
    lowest, highest = (1 - 2**31, 2**31 - 1) if format is None else (named(format).bottom, named(format).top)
    if steps.size and not lowest <= steps.min() <= steps.max() <= highest:
        raise ValueError(
            f"codes of {format or 'integers'} go from {lowest} to {highest}, not {steps.min()} to {steps.max()}"
        )
