"""Tensors as streams and back: plain, as integers, or as codes on a grid; whole, or without their zeros."""

import math
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jaxcomp.core.types import Block, Grid
from jaxcomp.pack import fields
from jaxcomp.pack.regrid import levels_of, nearest, regrid
from jaxcomp.quant.formats import named
from jaxcomp.quant.granularity import grid_shape, spread

_KINDS = {f"{kind}{where}" for kind in ("plain", "ints", "codes") for where in ("", "+mask", "+gaps")}
_NUMPY = {np.dtype(code).name: np.dtype(code) for code in "?bhiqBHIQefdFD"}


class Coded(NamedTuple):
    """A tensor as streams.

    Attributes:
      kind: ``plain``, ``ints`` or ``codes``, with ``+mask`` or ``+gaps`` where zeros are left out.
      args: JSON numbers that the kind needs.
      streams: the positions (where zeros are left out), then what the kind holds.
      off_grid: True where a grid was given and the values lie on none of its kind, bit for bit.
    """

    kind: str
    args: list[Any]
    streams: list[bytes]
    off_grid: bool = False


class _Lattice(NamedTuple):
    steps: np.ndarray
    codes: np.ndarray
    args: list[Any]
    streams: list[bytes]


def dtype_named(name: str) -> np.dtype:
    """The dtype of that name among those that JAX knows; a ValueError for any other."""
    if not isinstance(name, str):
        raise ValueError(f"a dtype is called by its name, not {name!r}")
    if name in _NUMPY:
        return _NUMPY[name]
    found = getattr(ml_dtypes, name, None)
    if isinstance(found, type) and issubclass(found, np.generic):
        return np.dtype(found)
    raise ValueError(f"no array of JAX has the dtype {name!r}")


def encode(array: np.ndarray, grid: Grid | None = None, format: str | None = None) -> Coded:
    """Codes a tensor in the smallest form that gives back its very bits.

    With a grid, the codes of the levels nearest to ``array / scale``, kept only if ``level * scale``, in float32
    (float64 for float64) and cast to the tensor's dtype, is the tensor again. Of values that lie on another grid of the
    same granularity and format, that one is found.

    Args:
      array: ``[...]``, of a dtype that JAX knows.
      grid: scale and zero point that broadcast against it, in blocks or not; or None.
      format: the name of the codes' format; None: integers.

    Returns:
      The tensor as streams.

    Example:
      >>> import numpy as np
      >>> from jaxcomp.core.types import Grid
      >>> encode(np.arange(-8, 8, 0.5), Grid(np.float32([0.5]), np.int32([0]))).kind
      'codes'
      >>> encode(np.eye(64, dtype=np.float32)).kind
      'plain+gaps'
    """
    array = np.asarray(array, order="C")  # one after the other in memory: their bits are looked at
    flat = array.reshape(-1)
    stored = _set_bits(flat)
    selections: list[tuple[str, Any, list[bytes]]] = [("", slice(None), [])]
    if not stored.all():
        where, stream = fields.pack_mask(stored)
        selections.append((f"+{where}", stored, [stream]))
    lattice = None if grid is None else _lattice(array, grid, format) or _found_lattice(array, grid, format)
    forms = []
    for suffix, chosen, positions in selections:
        forms.append(Coded(f"plain{suffix}", [], [*positions, fields.pack_items(flat[chosen])]))
        if flat.dtype == bool or jax.dtypes.issubdtype(flat.dtype, np.integer):
            forms += _packed(f"ints{suffix}", [], positions, flat[chosen].astype(np.int64))
        # No code stands for -0.0 in a whole tensor; where +0.0 is left out, a stored 0 can be nothing else.
        elif lattice is not None and (suffix or not (stored & (lattice.steps == 0)).any()):
            forms += _packed(f"codes{suffix}", lattice.args, positions + lattice.streams, lattice.codes[chosen])
    best = min(forms, key=lambda form: sum(len(stream) + 3 for stream in form.streams))
    return best._replace(off_grid=grid is not None and lattice is None and array.size > 0)


def _packed(kind: str, args: list[Any], before: list[bytes], values: np.ndarray) -> list[Coded]:
    packed = fields.pack_ints(values)
    return [] if packed is None else [Coded(kind, [packed[0], *args], [*before, packed[1]])]


def _set_bits(flat: np.ndarray) -> np.ndarray:
    """True where an item is anything but all-zero bits: -0.0 and NaN are stored, +0.0 is not."""
    word = math.gcd(flat.itemsize, 8)
    return np.any(flat.view(f"u{word}").reshape(flat.size, flat.itemsize // word), axis=1)


def _working_dtype(dtype: np.dtype) -> np.dtype:
    return np.dtype("<f8" if dtype == np.float64 else "<f4")


def _values_at(levels: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # The arithmetic of the fake quantizer, operation for operation: one product, then one cast.
    with np.errstate(all="ignore"):
        return (levels.astype(scale.dtype) * scale).astype(dtype)


def _lattice(array: np.ndarray, grid: Grid, format: str | None) -> _Lattice | None:
    """Codes less zero point, codes, and what to store beside them; None if the bits would differ."""
    if format is not None and named(format).kind in ("integer", "sign"):
        format = None  # codes that are their own levels
    scale = np.asarray(grid.scale).astype(_working_dtype(array.dtype))
    scale = scale.reshape((1,) * (array.ndim - scale.ndim) + scale.shape)
    if not array.size or not jax.dtypes.issubdtype(array.dtype, np.floating) or not _fits(scale, array.shape, grid):
        return None
    if not _are_scales(scale):
        return None
    full = np.broadcast_to(spread(scale, array.shape, grid.block), array.shape).reshape(-1)
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        steps = nearest(flat.astype(np.float64) / full.astype(np.float64), format)
    if not (np.abs(steps) < 2**31).all():
        return None
    steps = steps.astype(np.int64)
    again = _values_at(levels_of(steps, format), full, array.dtype)
    same = (again.view(np.uint8) == flat.view(np.uint8)).reshape(flat.size, -1).all(axis=1)
    if not (same | ((steps == 0) & (flat == 0))).all():
        return None
    more: list[Any] = [format] if format or grid.block else []
    if grid.block is not None:
        more += [grid.block.size, list(grid.block.axes)]
    return _with_zero_points(steps, array.shape, grid, scale, more)


def _found_lattice(array: np.ndarray, grid: Grid, format: str | None) -> _Lattice | None:
    """The lattice of values that lie on another grid than was told, of the same granularity and format."""
    scale = np.asarray(grid.scale)
    placed = scale.reshape((1,) * (array.ndim - scale.ndim) + scale.shape)
    if not array.size or not jax.dtypes.issubdtype(array.dtype, np.floating) or not _fits(placed, array.shape, grid):
        return None
    found = regrid(array, grid, format, _working_dtype(array.dtype))
    return None if found is None else _lattice(array, found, format)


def _fits(scale: np.ndarray, shape: tuple[int, ...], grid: Grid) -> bool:
    if scale.ndim != len(shape):
        return False
    if grid.block is not None:
        return scale.shape == grid_shape(shape, grid.block)
    return all(s in (1, n) for s, n in zip(scale.shape, shape, strict=True))


def _with_zero_points(
    steps: np.ndarray, shape: tuple[int, ...], grid: Grid, scale: np.ndarray, more: list[Any]
) -> _Lattice:
    axes = [axis for axis, size in enumerate(scale.shape) if size != 1]
    stored, zero_point = [fields.pack_items(scale.reshape(-1))], np.asarray(grid.zero_point)
    if zero_point.size > 1 and zero_point.size == scale.size and (zero_point != zero_point.flat[0]).any():
        # Codes less zero points would do, but where channels differ in them they span more bits than codes.
        shifts = zero_point.reshape(scale.shape).astype(np.int64)
        packed = fields.pack_ints(shifts.reshape(-1))
        if packed is not None:
            full = np.broadcast_to(spread(shifts, shape, grid.block), shape).reshape(-1)
            return _Lattice(steps, steps + full, [axes, packed[0], *more], [*stored, packed[1]])
    return _Lattice(steps, steps, [axes, None, *more] if more else [axes], stored)


def decode(coded: Coded, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The tensor that :func:`encode` was given.

    Args:
      coded: its streams.
      shape: its shape.
      dtype: its dtype.

    Returns:
      ``[*shape]``, its own memory.

    Raises:
      ValueError: if the streams do not make such a tensor, or are not what :func:`encode` makes.

    Example:
      >>> import numpy as np
      >>> decode(encode(np.eye(2)), (2, 2), np.dtype("float64"))
      array([[1., 0.],
             [0., 1.]])
    """
    if coded.kind not in _KINDS:
        raise ValueError(f"no kind is called {coded.kind!r}: the file may be of a newer jaxcomp")
    kind, _, positions = coded.kind.partition("+")
    size, rest = math.prod(shape), coded.streams
    keep = None
    if positions:
        keep, rest = fields.unpack_mask(positions, rest[0], size), rest[1:]
    count = size if keep is None else int(np.count_nonzero(keep))
    match kind:
        case "plain":
            (stream,), () = rest, coded.args
            values = fields.unpack_items(stream, count, dtype)
        case "ints":
            (stream,), (packing,) = rest, coded.args
            values = _narrowed(fields.unpack_ints(packing, stream, count), dtype)
        case "codes":
            values = _from_codes(coded.args, rest, shape, dtype, keep)
    if keep is None:
        return values.reshape(shape).copy()
    flat = np.zeros(size, dtype)
    flat[keep] = values
    return flat.reshape(shape)


def _narrowed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers in their own dtype; those that would wrap there are refused. Those of uint64 are stored as int64."""
    if dtype.kind != "b" and not jax.dtypes.issubdtype(dtype, np.integer):
        raise ValueError(f"integers are no {dtype}")
    narrow = values.astype(dtype)
    if not (narrow.astype(np.int64) == values).all():
        raise ValueError(f"integers from {values.min()} to {values.max()} do not fit in {dtype}")
    return narrow


def _from_codes(
    args: list[Any], rest: list[bytes], shape: tuple[int, ...], dtype: np.dtype, keep: np.ndarray | None
) -> np.ndarray:
    packing, axes, shift, format, block = _checked_args(args, shape, dtype)
    scales, *shifts, codes = rest
    if len(shifts) != (shift is not None):
        raise ValueError(f"{len(rest)} streams are not those of scales, zero points where there are any, and codes")
    chosen = slice(None) if keep is None else keep
    if block is None:
        numbers_shape = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    else:
        numbers_shape = grid_shape(shape, block)

    def full(numbers: np.ndarray) -> np.ndarray:
        return np.broadcast_to(spread(numbers.reshape(numbers_shape), shape, block), shape).reshape(-1)[chosen]

    scale = fields.unpack_items(scales, math.prod(numbers_shape), _working_dtype(dtype))
    _check_scales(scale)
    scale = full(scale)
    steps = fields.unpack_ints(packing, codes, scale.size)
    if shift is not None:
        steps = steps - full(fields.unpack_ints(shift, shifts[0], math.prod(numbers_shape)))
    _check_steps(steps, format)
    values = _values_at(levels_of(steps, format), scale, dtype)
    if keep is not None:
        values[steps == 0] = -0.0
    return values


def _checked_args(args: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, ...]:
    """How codes, and their zero points, are packed; the axes of their scales; their format; their blocks."""
    padded = [*args, *[None] * (6 - len(args))]
    packing, axes, shift, format, size, own = padded
    if not jax.dtypes.issubdtype(dtype, np.floating):
        raise ValueError(f"codes on a grid are no {dtype}")
    for found in (axes, *([] if own is None else [own])):
        if not all(type(axis) is int and 0 <= axis < len(shape) for axis in found) or len(set(found)) != len(found):
            raise ValueError(f"{found!r} are no axes of an array of shape {shape}")
    if (size is None) != (own is None) or (size is not None and (type(size) is not int or size < 1)):
        raise ValueError(f"a block is a whole number of values along axes, not {size!r} along {own!r}")
    return packing, axes, shift, format, None if size is None else Block(size, tuple(own))


def _are_scales(scale: np.ndarray) -> bool:
    return bool(((scale > 0) & (scale < np.inf)).all())


def _check_scales(scale: np.ndarray) -> None:
    if not _are_scales(scale):
        raise ValueError("a scale is positive and finite, and some here are not")


def _check_steps(steps: np.ndarray, format: str | None) -> None:
    lowest, highest = (1 - 2**31, 2**31 - 1) if format is None else (named(format).bottom, named(format).top)
    if steps.size and not lowest <= steps.min() <= steps.max() <= highest:
        raise ValueError(
            f"codes of {format or 'integers'} go from {lowest} to {highest}, not {steps.min()} to {steps.max()}"
        )
