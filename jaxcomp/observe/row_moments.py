"""Moments of the rows that a layer reads, and of what its results lack; float32 holds them at any scale."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.halves import forms
from jaxcomp.core.units import host_unit


class Lack(NamedTuple):
    """The lack of a layer's results, with its weights W as they were: of inputs x now and x' before, (x' - x) W.

    It is summed up as such, since differences of second moments would cancel where inputs have hardly changed.

    Attributes:
      mean: ``[groups, out]``.
      cross: ``[groups, n, out]``: second moments with the inputs now.
      squares: ``[groups, out]``.
    """

    mean: Any
    cross: Any
    squares: Any


class Moment(NamedTuple):
    """Second moments of some rows, about their means, in units that let float32 hold them.

    Attributes:
      rows: how many.
      units: by which inputs were divided, and by which what is lacking; powers of two, or 0 where all is 0.
      mean: ``[groups, n]``; None if it is not known, then the moments are about 0.
      now: ``[groups, n, n]``.
      lack: None if it is not known how inputs were.
    """

    rows: int
    units: tuple[float, float]
    mean: Any
    now: Any
    lack: Lack | None = None

    @classmethod
    def of(cls, rows: np.ndarray, changes: np.ndarray, weight: np.ndarray, units: tuple[float, float]) -> "Moment":
        """Computes the moments of rows ``[groups, positions, n]``, and of what results lack as rows have changed.

        Rows and changes are overwritten.

        Args:
          rows, changes: in units.
          weight: ``[groups, n, out]``.
          units: of the rows, and of what changes and weights are multiplied to.
        """
        mean = _centered(rows)
        lack, size = _lack(rows, changes, weight)
        by = units[1] * size if lack.squares.any() or lack.mean.any() else 0.0
        found = cls(rows.shape[1], (units[0], by), mean, np.matmul(rows.swapaxes(1, 2), rows), lack)
        return found if found.squares().any() else found._replace(units=(0.0, by))

    @classmethod
    def about_zero(cls, rows: int, now: np.ndarray) -> "Moment":
        """Makes a moment of ``rows`` rows of unknown means from their second moments ``now``, float64 of any size."""
        size = host_unit(math.sqrt(np.max(np.abs(now)))) if now.any() else 0.0
        return cls(rows, (size, 0.0), None, (now / (size * size or 1.0)).astype(np.float32))

    def squares(self) -> np.ndarray:
        """Returns the sums of the squares of the inputs, float64."""
        own = np.diagonal(self.now, axis1=-2, axis2=-1).astype(np.float64)
        if self.mean is not None:
            own = own + self.rows * np.square(self.mean.astype(np.float64))
        return own * self.units[0] ** 2

    def apart(self, takes: Sequence[slice], units: Sequence[float]) -> "list[Moment]":
        """Splits the moment of inputs that several layers read: each has what its own results lack.

        Args:
          takes: the results of each layer.
          units: by which its weights were divided.
        """
        found = []
        for take, unit in zip(takes, units, strict=True):
            lack = self.lack and Lack(*(np.ascontiguousarray(x[..., take]) for x in self.lack))
            found.append(self._replace(units=(self.units[0], self.units[1] * unit), lack=lack))
        return found

    def merged(self, other: "Moment") -> "Moment":
        """Merges the moments of the rows of both, by Chan's formula: nothing cancels."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        units = max(self.units[0], other.units[0]), max(self.units[1], other.units[1])
        one, another = self._in(units), other._in(units)
        rows, way = self.rows + other.rows, None
        mean, now = None, one.now + another.now
        if self.mean is not None and other.mean is not None:
            way = another.mean - one.mean
            mean = one.mean + other.rows / rows * way
            now = with_outer(now, self.rows * other.rows / rows, way, way)
        if one.lack is None or another.lack is None or way is None:
            return Moment(rows, units, mean, now)
        (m, cross, squares), (m2, cross2, squares2) = one.lack, another.lack
        more, share = m2 - m, self.rows * other.rows / rows
        cross = with_outer(cross + cross2, share, way, more)
        lack = Lack(m + other.rows / rows * more, cross, squares + squares2 + share * more * more)
        return Moment(rows, units, mean, now, lack)

    def _in(self, units: tuple[float, float]) -> "Moment":
        """The same in larger units."""
        if units == self.units:
            return self
        x, e = ratios(self.units, units)
        mean = None if self.mean is None else self.mean * x
        lack = (
            None if self.lack is None else Lack(*(a * by for a, by in zip(self.lack, (e, x * e, e * e), strict=True)))
        )
        return Moment(self.rows, units, mean, self.now * (x * x), lack)


def ratios(some: tuple[float, float], others: tuple[float, float]) -> list[float]:
    """Returns the factors from numbers in units ``some`` to numbers in units ``others``."""
    return [own / size if size else 0.0 for own, size in zip(some, others, strict=True)]


ROWS = 64
"""Rows of a matrix that are worked on together: whole matrices would not stay in the cache."""

FEWER = 1.5
"""How many times as many products of rows and weights there must be, to go through the moments of inputs instead."""

NOTHING = Moment(0, (0.0, 0.0), None, None)
"""The moment of no rows."""


def with_outer(matrix: Any, by: float, one: Any, other: Any) -> Any:
    """Adds outer products to a matrix, in place.

    Args:
      matrix: ``[groups, n, m]``.
      by: a factor of the products.
      one: ``[groups, n]``.
      other: ``[groups, m]``.

    Example:
      >>> with_outer(np.zeros((1, 1, 2)), 2.0, np.ones((1, 1)), np.array([[1.0, 3.0]])).tolist()
      [[[2.0, 6.0]]]
    """
    for own, left, right in zip(matrix, one * by, other, strict=True):
        for first in range(0, len(left), ROWS):
            rows = slice(first, first + ROWS)
            own[rows] += left[rows, None] * right
    return matrix


def moments_of(
    rows: Sequence[np.ndarray], changes: Sequence[np.ndarray], weight: np.ndarray, takes: Sequence[Sequence[np.ndarray]]
) -> list[Moment]:
    """Computes the moments of several selections of a layer's rows.

    A common factor and the mean are taken out before anything is squared: else float32 overflows, or cancels. Sums are
    taken where they will be factored, on the host: BLAS computes one triangle, and compiles nothing.

    Args:
      rows: of each batch ``[groups, positions, n]``, as they are now.
      changes: the rows as they were, less the rows as they are.
      weight: of the layer, ``[groups, n, out]``, float64.
      takes: for each of the results, the positions of each batch that it selects.
    """
    with np.errstate(all="ignore"):  # what is not finite stays so, and is named where it is used
        unit, size, by = _unit([weight]), _unit(rows), _unit(changes)
        own = (weight / unit).astype(rows[0].dtype)
        both = ((_joined(rows, take, size), _joined(changes, take, by)) for take in takes)
        return [Moment.of(*each, own, (size, by * unit)) for each in both]


def _lack(rows: np.ndarray, changes: np.ndarray, weight: np.ndarray) -> tuple[Lack, float]:
    """Sums up what results lack, and finds its unit; through the moments of inputs where that takes fewer products.

    Both arrays are overwritten.

    Args:
      rows: ``[groups, positions, n]``, about their means.
      changes: likewise, not about them.
      weight: ``[groups, n, out]``.
    """
    (_, count, n), out, turned = rows.shape, weight.shape[2], rows.swapaxes(1, 2)
    if FEWER * n * (count + out) > count * out:
        lacking = np.matmul(changes, weight)
        size = _unit([lacking])
        lacking /= lacking.dtype.type(size)
        mean = _centered(lacking)
        squares = np.sum(lacking * lacking, 1, dtype=np.float64).astype(rows.dtype)
        return Lack(mean, np.matmul(turned, lacking), squares), size
    mean = np.matmul(_centered(changes)[:, None], weight)[:, 0]
    squares = np.maximum(forms(np.matmul(changes.swapaxes(1, 2), changes), weight), 0)
    size = host_unit(max(np.max(np.abs(mean), initial=0), math.sqrt(np.max(squares, initial=0) / max(count, 1))))
    cross = np.matmul(np.matmul(turned, changes), weight) / rows.dtype.type(size)
    return Lack(mean / rows.dtype.type(size), cross, (squares / size**2).astype(rows.dtype)), size


def _unit(arrays: Sequence[np.ndarray]) -> float:
    return host_unit(np.max([[np.max(x, initial=0), -np.min(x, initial=0)] for x in arrays]))


def _joined(parts: Sequence[np.ndarray], takes: Sequence[np.ndarray], size: float) -> np.ndarray:
    """Some places of each batch, side by side, in a unit."""
    some = np.concatenate([x[:, take] for x, take in zip(parts, takes, strict=True)], 1)
    some /= some.dtype.type(size)
    return some


def _centered(rows: np.ndarray) -> np.ndarray:
    """Takes their mean out of rows; returns it."""
    mean = (rows.sum(1, dtype=np.float64) / max(rows.shape[1], 1)).astype(rows.dtype)
    rows -= mean[:, None]
    return mean


def gram(rows: Any, others: Any = None) -> Any:
    """Sums products of features over positions: ``rows^T rows``, or ``rows^T others``.

    Args:
      rows: ``[batch, positions, n]``.
      others: ``[batch, positions, m]``; None: ``rows``.

    Returns:
      ``[batch, n, m]``.

    Example:
      >>> gram(jnp.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist()
      [[[10.0, 14.0], [14.0, 20.0]]]
    """
    others = rows if others is None else others
    if len(rows) == 1:  # without a batch axis XLA:CPU is twice as fast
        return jnp.einsum("pi,pj->ij", rows[0], others[0], precision="highest")[None]
    return jnp.einsum("bpi,bpj->bij", rows, others, precision="highest")
