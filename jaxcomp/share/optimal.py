"""The codebook of the least squared error over the weights themselves: one-dimensional k-means, on the host."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import check_values
from jaxcomp.core.errors import ArgumentError
from jaxcomp.share.cluster import check_count

GROUPS = 512
"""Groups of each kind, between which the weights are cut at first; then ever finer about these cuts."""
FINER = 64
"""Candidates about a cut."""


def optimal(values: Any, k: int, *, importance: Any = None, zero: bool = False) -> np.ndarray:
    r"""Finds the k centers of the least :math:`\sum_i f_i \min_j (w_i - c_j)^2`.

    By dynamic programming over the weights in order, in float64: the best of all cuts between groups of neighbors,
    then the best of ever finer ones about those, as long as any moves. Up to 512 distinct weights that is exact; of
    more, no cut can be moved by itself or with others nearby for a smaller sum.

    Args:
      values: ``[...]`` floating point, finite.
      k: centers, 1 to 65,536.
      importance: ``[...]``, f, at least 0: of a Fisher or Hessian diagonal (:func:`jaxcomp.observe.fisher_diagonal`);
        None, or 0 everywhere: all alike.
      zero: whether one of the centers is 0.

    Returns:
      ``[at most k]`` of float64, in order; fewer where there are fewer distinct weights.

    Raises:
      ArgumentError: for k out of range, shapes that differ, numbers that are not real or not finite, negative
        importance, and inside of jit.

    Example:
      >>> optimal(np.array([0.9, 1.1, -2.0, 5.0, 5.0]), 3).round(6).tolist()
      [-2.0, 1.0, 5.0]

    Reference: Wang and Song, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming, 2011.
    """
    check_count(k)
    x, weight = _checked(values, importance)
    x, weight = _distinct(x, weight, zero)
    if len(x) + zero <= k:
        return np.union1d(x, [0.0]) if zero else x
    sums = _Sums.of(x, weight)
    candidates = [_coarse(x)] * (k - 1)
    for _ in range(100):
        cut, pinned = _best(sums, candidates, zero)
        finer = [_finer(each, at, len(x)) for each, at in zip(candidates, cut, strict=True)]
        if all(np.isin(new, old).all() for new, old in zip(finer, candidates, strict=True)):
            break
        candidates = finer
    return _centers(sums, cut, pinned)


def _checked(values: Any, importance: Any) -> tuple[np.ndarray, np.ndarray]:
    given = {"values": values} | ({} if importance is None else {"importance": importance})
    check_values(given, "optimal")
    for name, value in given.items():
        kind = getattr(value, "dtype", None) or np.asarray(value).dtype
        if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
            raise ArgumentError(f"{name} must be an array of real numbers, got {type(value).__name__} of {kind}")
    x = np.asarray(jax.device_get(values), np.float64).reshape(-1)
    weight = np.ones_like(x) if importance is None else np.asarray(jax.device_get(importance), np.float64)
    if importance is not None and np.shape(importance) != np.shape(values):
        raise ArgumentError(f"importance has a number for each weight: {np.shape(values)}, not {np.shape(importance)}")
    weight = weight.reshape(-1)
    if not np.isfinite(x).all():
        raise ArgumentError("the weights hold NaN or infinity: mend them first")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ArgumentError("importance holds NaN, infinity or numbers below 0")
    if x.size == 0:
        raise ArgumentError("there are no weights to share values")
    return x, weight if weight.any() else np.ones_like(x)


def _distinct(x: np.ndarray, weight: np.ndarray, zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each value once, in order, with the importance of all its weights; without 0 where that has a center."""
    found, place = np.unique(x, return_inverse=True)
    total = np.bincount(place.reshape(-1), weight)
    if zero:
        found, total = found[found != 0], total[found != 0]
    counts = total > 0 if (total > 0).any() else np.ones_like(total, bool)
    return found[counts], np.where(counts, total, 1)[counts]


def _coarse(x: np.ndarray) -> np.ndarray:
    """Where the first cuts may be: evenly over the range, and as densely as the best centers of many are.

    That is by the cube root of the density of weights (Panter and Dite, 1951).
    """
    n = len(x)
    if n <= GROUPS:
        return np.arange(n + 1)
    reach, index = max(1, n // (4 * GROUPS)), np.arange(n)
    gap = x[np.minimum(index + reach, n - 1)] - x[np.maximum(index - reach, 0)]
    below = np.cumsum(np.cbrt(gap / gap.max()) ** 2)
    parts = np.arange(GROUPS) / GROUPS
    even = np.searchsorted(x, x[0] + (x[-1] - x[0]) * parts)
    return np.unique(np.concatenate([even, np.searchsorted(below, below[-1] * parts), [0, n]]))


def _finer(candidates: np.ndarray, cut: int, end: int) -> np.ndarray:
    """Candidates about a cut, up to two of the old ones away; as far as before beyond the last one."""
    at = int(np.searchsorted(candidates, cut))
    below, above = candidates[max(at - 2, 0)], candidates[min(at + 2, len(candidates) - 1)]
    reach = max(cut - below, above - cut, 2)
    low, high = max(cut - reach, 0), min(cut + reach, end)
    return np.union1d(np.linspace(low, high, FINER + 1).astype(np.int64), [cut])


class _Sums(NamedTuple):
    """Sums over the first i values, of their importance and of its products with them, about their mean."""

    mass: np.ndarray
    first: np.ndarray
    second: np.ndarray
    middle: float
    unit: float

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray) -> "_Sums":
        weight, unit = weight / weight.max(), float(np.abs(x).max()) or 1.0
        middle = float(np.average(x / unit, weights=weight))
        far = x / unit - middle
        mass, first, second = (np.append(0.0, np.cumsum(weight * far**power)) for power in range(3))
        return cls(mass, first, second, middle, unit)

    def free(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The costs of segments about their means; infinite where one ends before it starts."""
        mass, first, second = (row[ends] - row[starts] for row in self[:3])
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.where(mass > 0, np.maximum(second - first * first / mass, 0), 0)
        return np.where(starts <= ends, cost, np.inf)

    def about_zero(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The costs of segments about 0."""
        mass, first, second = (row[ends] - row[starts] for row in self[:3])
        cost = np.maximum(second + 2 * self.middle * first + self.middle**2 * mass, 0)
        return np.where(starts <= ends, cost, np.inf)


def _best(sums: _Sums, candidates: list[np.ndarray], zero: bool) -> tuple[np.ndarray, int]:
    """``[k - 1]``, the cuts of the least cost, one among each of the candidates; which segment's center is 0, or -1."""
    ends = np.array([len(sums.mass) - 1])
    steps = [np.array([0]), *candidates, ends]
    free, fixed = np.zeros(1), np.full(1, np.inf)
    same: Any = None
    back = []
    for starts, stops in itertools.pairwise(steps):
        if not (starts is same and stops is same):  # the first round's are one array, whose costs are found once
            mean_cost = sums.free(starts[:, None], stops)
            zero_cost = sums.about_zero(starts[:, None], stops) if zero else mean_cost
            same = stops if starts is stops else None
        to_free = free[:, None] + mean_cost
        row = [np.argmin(to_free, 0)]
        if zero:
            by_mean, by_zero = fixed[:, None] + mean_cost, free[:, None] + zero_cost
            row += [np.argmin(by_mean, 0), np.argmin(by_zero, 0)]
            fixed = np.minimum(by_mean.min(0), by_zero.min(0))
            row.append(by_zero.min(0) < by_mean.min(0))
        back.append(row)
        free = to_free.min(0)
    return _followed(steps, back, zero)


def _followed(steps: list[np.ndarray], back: list[list[np.ndarray]], open_: bool) -> tuple[np.ndarray, int]:
    """The cuts, from the last segment to the first; ``open_`` while that of the center 0 is still to come."""
    at, cuts, pinned = 0, [], -1
    for segment in reversed(range(len(back))):
        starts, row = steps[segment], back[segment]
        here = bool(open_ and row[3][at])
        pinned = segment if here else pinned
        at = int(row[2 if here else 1 if open_ else 0][at])
        open_ = open_ and not here
        cuts.append(starts[at])
    return np.array(cuts[::-1][1:], dtype=np.int64), pinned


def _centers(sums: _Sums, cut: np.ndarray, pinned: int) -> np.ndarray:
    edges = np.concatenate([[0], cut, [len(sums.mass) - 1]])
    mass, first = (row[edges[1:]] - row[edges[:-1]] for row in (sums.mass, sums.first))
    means = (first / np.where(mass > 0, mass, 1) + sums.middle) * sums.unit
    held = mass > 0
    if pinned >= 0:
        means[pinned], held[pinned] = 0.0, True
    return np.unique(means[held])
