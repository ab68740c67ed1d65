"""Grids found from the values that lie on them: where notes tell of another grid than the values' own."""

from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.pack.pieces import Owners, ranges
from jaxcomp.quant.formats import Format, named

_WIDEST = 255
"""The most steps of 8 bits between 0 and a value: those of an affine grid with its zero at one end."""
_TRIED = 64
"""Groups on which all levels are tried, before all groups are."""


def nearest(x: np.ndarray, format: str | None) -> np.ndarray:
    """Returns the codes of a ``format`` nearest to ``x``; of two equally near ones the caller checks which."""
    if format is None:
        return np.rint(x)
    found = named(format)
    levels = np.asarray(found.levels)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, x) + found.bottom


def levels_of(steps: np.ndarray, format: str | None) -> np.ndarray:
    """Returns the levels of codes less zero points, ``steps``, in a ``format``."""
    if format is None:
        return steps
    found = named(format)
    return np.asarray(found.levels)[np.clip(steps, found.bottom, found.top) - found.bottom]


def regrid(array: np.ndarray, grid: Grid, format: str | None, dtype: np.dtype) -> Grid | None:
    r"""Finds the grid of some granularity and format that a tensor's values lie on, if there is one.

    Per scale s: some level L is that of the largest value, so :math:`s \approx \max|v| / L`, which gives each value its
    level l, and s lies in the intersection of what rounds to v: :math:`(v \pm \mathrm{ulp}/2) / l`.

    Args:
      array: ``[...]``, floating point.
      grid: of its rank, for the granularity, and whether zero points are used; its numbers are not used where a scale
        holds any value but 0.
      format: the name of the codes' format; None: integers of up to 8 bits.
      dtype: in which levels are multiplied by scales.

    Returns:
      The grid, to be checked; None if no level fits.

    Example:
      >>> other = Grid(np.float32([[0.3]]), np.int32([[0]]))
      >>> regrid(np.float32([[-0.25, 1.75, 0.5]]), other, "int4", np.dtype("float32")).scale.tolist()
      [[0.25]]
    """
    scale = np.asarray(grid.scale).astype(dtype)
    scale = scale.reshape((1,) * (array.ndim - scale.ndim) + scale.shape)
    own = None if format is None else named(format)
    most = 2 * (_WIDEST if own is None else len(own.levels)) + 1
    distinct = _distinct(array.reshape(-1), Owners(array.shape, scale.shape, grid.block), most)
    if distinct is None:
        return None  # more values than levels
    values, owner = distinct
    table = None if own is None or own.kind in ("integer", "sign") else format
    found = _scales(_Values(values, owner, _half_ulps(values, array.dtype), table), scale.size, own)
    if found is None:
        return None
    usable = np.where((scale > 0) & (scale < np.inf), scale, 1).reshape(-1)
    new = np.where(np.isnan(found), usable, found).astype(dtype)
    shift = np.zeros(scale.size, np.int32)
    if np.any(np.asarray(grid.zero_point)) and table is None:
        lowest = np.zeros(scale.size)
        np.minimum.at(lowest, owner, np.rint(values / new[owner]))
        shift = -lowest.astype(np.int32)
    return Grid(new.reshape(scale.shape), shift.reshape(scale.shape), grid.block)


class _Values(NamedTuple):
    """Values other than 0.

    Attributes:
      values: ``[n]`` float64.
      owner: ``[n]``, which scale is theirs.
      halves: ``[n]``, how far from a value numbers are rounded to it.
      format: the name of their codes' format; None: integers.
    """

    values: np.ndarray
    owner: np.ndarray
    halves: np.ndarray
    format: str | None

    def of(self, chosen: np.ndarray) -> "_Values":
        """The values of some of the scales, a mask of all."""
        own = chosen[self.owner]
        place = np.cumsum(chosen) - 1
        return _Values(self.values[own], place[self.owner[own]], self.halves[own], self.format)


def _distinct(flat: np.ndarray, owners: Owners, most: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The values other than 0 in float64, each once a scale, and whose; None if not finite, or too many of a scale."""
    values, owner = np.zeros(0, flat.dtype), np.zeros(0, np.int64)
    for begin, end in ranges(len(flat)):
        nonzero = np.flatnonzero(flat[begin:end] != 0) + begin
        values, owner = _once(np.concatenate([values, flat[nonzero]]), np.concatenate([owner, owners(nonzero)]))
        if not np.isfinite(values).all() or np.bincount(owner, minlength=1).max() > most:
            return None
    return values.astype(np.float64), owner


def _once(values: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.itemsize > 4:
        first = np.unique(np.stack([owner.astype(np.uint64), values.view(np.uint64)]), axis=1, return_index=True)[1]
    else:
        bits = values.view(f"u{values.itemsize}").astype(np.uint64)
        first = np.unique((owner.astype(np.uint64) << np.uint64(32)) | bits, return_index=True)[1]
    return values[first], owner[first]


def _half_ulps(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    info = ml_dtypes.finfo(dtype)
    with np.errstate(all="ignore"):
        ulps = np.ldexp(float(info.eps), np.frexp(values)[1] - 1)
    # What is narrower than float32 is rounded twice.
    return np.maximum(ulps, float(info.smallest_subnormal)) / 2 + np.abs(values) * (2.0**-24 if info.bits < 32 else 0)


def _scales(held: _Values, count: int, format: Format | None) -> np.ndarray | None:
    """A scale each, NaN where there is no value but 0; None if no level of the largest value fits."""
    peaks = np.zeros(count)
    np.maximum.at(peaks, held.owner, np.abs(held.values))
    scales, open_ = np.full(count, np.nan), peaks > 0
    for i, level in enumerate(_levels_of_peaks(held, peaks, format)):
        if not open_.any():
            break
        if i == 3 and open_.sum() > _TRIED:
            few = open_ & (np.cumsum(open_) <= _TRIED)
            if _scales(held.of(few), int(few.sum()), format) is None:
                return None
        fitted = _coarsest(held.of(open_), peaks[open_], level[open_])
        scales[open_] = fitted
        open_[open_] = np.isnan(fitted)
    return None if open_.any() else scales


def _levels_of_peaks(held: _Values, peaks: np.ndarray, format: Format | None) -> Iterator[np.ndarray]:
    """Levels that may be the largest value's, likeliest first: the format's last; if affine, what spans all codes."""
    last = {abs(level) for level in format.levels} - {0.0} if format else set(map(float, range(1, _WIDEST + 1)))
    if format is not None and format.affine:
        least, greatest = np.zeros(len(peaks)), np.zeros(len(peaks))
        np.minimum.at(least, held.owner, held.values)
        np.maximum.at(greatest, held.owner, held.values)
        steps = len(format.levels) - 1
        whole = np.clip(np.rint(steps * peaks / np.maximum(greatest - least, np.finfo(float).tiny)), 1, steps)
        yield from (whole, np.maximum(whole - 1, 1), np.minimum(whole + 1, steps))
        last = set(map(float, range(1, steps + 1)))
    likely = [127.0, 7.0, 1.0] if format is None else [max(last)]
    for level in [*likely, *sorted(last - set(likely), reverse=True)]:
        yield np.full(len(peaks), level)


def _coarsest(held: _Values, peaks: np.ndarray, level: np.ndarray) -> np.ndarray:
    """As :func:`_fit`; where all integers have a common factor, the grid without it, whose codes are smaller."""
    scale = _fit(held, peaks, level)
    if held.format is not None:
        return scale
    common = np.zeros(len(peaks), np.int64)
    with np.errstate(invalid="ignore"):
        steps = np.nan_to_num(np.rint(held.values / scale[held.owner])).astype(np.int64)
    np.gcd.at(common, held.owner, steps)
    coarse = _fit(held, peaks, level / np.maximum(common, 1)) if (common > 1).any() else scale
    return np.where(np.isnan(scale) | np.isnan(coarse), scale, coarse)


def _fit(held: _Values, peaks: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The scales at which the largest values have these levels, NaN where not all others have one.

    A coarse type leaves a scale so vague that large values could have either of two levels: small ones narrow it first.
    """
    size = np.abs(held.values)
    scale = peaks / level
    for part in (1 / 16, 1 / 4, 1):
        own = size <= part * peaks[held.owner]
        values, owner, halves = held.values[own], held.owner[own], held.halves[own]
        with np.errstate(all="ignore"):
            levels = levels_of(nearest(values / scale[owner], held.format).astype(np.int64), held.format)
            ends = np.stack([(values - halves) / levels, (values + halves) / levels])
        ends = np.where(levels == 0, [[np.inf], [-np.inf]], np.sort(ends, axis=0))
        low, high = np.full(len(peaks), -np.inf), np.full(len(peaks), np.inf)
        np.maximum.at(low, owner, ends[0])
        np.minimum.at(high, owner, ends[1])
        known = np.isfinite(low) & np.isfinite(high) & (low <= high) & (low > 0)
        middle = np.where(known, low, 0) / 2 + np.where(known, high, 0) / 2
        scale = np.where(known, middle, scale if part < 1 else np.nan)
    return scale
