"""Evidence: what data say of the inputs of a layer, of examples to fit to and of examples to judge on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.meshes import automatic
from jaxcomp.core.quadratic import corrected
from jaxcomp.core.units import host_unit, unit
from jaxcomp.observe.held_out import Examples, counts, least_gain


class Moment(NamedTuple):
    """Second moments of some rows, about their means; float64.

    Attributes:
      rows: how many.
      means: ``[2, groups, n]``, of the rows as they are now and as they were; None if they are not known, then the
        moments are about 0.
      now: ``[groups, n, n]``: of the rows now.
      cross: of the rows now with those as they were; None if it is not known.
      was: of the rows as they were, likewise.
    """

    rows: float
    means: Any
    now: Any
    cross: Any = None
    was: Any = None

    @classmethod
    def of(cls, sums: Any) -> "Moment":
        """That of :func:`sums_of`, on the host."""
        count, units, means, moments = sums
        one, other = (float(x) for x in units)
        factors = one * one, one * other, other * other
        found = [np.asarray(x, np.float64) * by for x, by in zip(moments, factors, strict=True)]
        return cls(int(count), np.asarray(means, np.float64) * np.reshape([one, other], (2, 1, 1)), *found)

    def about(self, means: Any) -> "Moment":
        """The same about other points, 0 if they are None."""
        if self.means is None or means is self.means:
            return self
        now, old = self.means if means is None else self.means - means
        pairs = (now, now), (now, old), (old, old)
        more = [self.rows * one[..., None] * other[:, None] for one, other in pairs]
        return Moment(self.rows, means, *map(_plus, self[2:], more))

    def diagonals(self) -> list[np.ndarray]:
        """The sums of the squares of the inputs now, and of their products with what they were if that is known."""
        own = [np.diagonal(x, axis1=-2, axis2=-1) for x in self[2:4] if x is not None]
        if self.means is None:
            return own
        now = self.means[0]
        return [x + self.rows * (now * mean) for x, mean in zip(own, self.means, strict=False)]

    def merged(self, other: "Moment") -> "Moment":
        """Those of the rows of both (Chan's formula: nothing cancels)."""
        count = self.rows + other.rows
        if not self.rows or not other.rows:
            return self if self.rows else other
        means = None
        if self.means is not None and other.means is not None:
            means = (self.rows * self.means + other.rows * other.means) / count
        return Moment(count, means, *map(_plus, self.about(means)[2:], other.about(means)[2:]))


ROWS = 64
"""Rows of a matrix that are summed up together."""

NOTHING = Moment(0, None, None)
"""Of no rows."""


def _plus(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other


def sums_of(rows: Array, old: Array, take: np.ndarray) -> Any:
    """What :meth:`Moment.of` takes of some of a layer's rows.

    A common factor and the mean are taken out before anything is squared: else float32 overflows, or cancels.

    Args:
      rows: ``[groups, places, n]``, as they are now.
      old: as they were.
      take: which of the places.
    """
    return automatic(functools.partial(_sums, take), rows, old)


def _sums(take: np.ndarray, rows: Array, old: Array) -> tuple[int, Array, Array, list[Array]]:
    some = [jnp.take(x, take, axis=1) for x in (rows, old)]
    units = [unit(jnp.max(jnp.abs(x), initial=0)) for x in some]
    some = [x / size for x, size in zip(some, units, strict=True)]
    means = [x.sum(1) / max(len(take), 1) for x in some]
    now, was = (x - mean[:, None] for x, mean in zip(some, means, strict=True))
    return len(take), jnp.stack(units), jnp.stack(means), [gram(now), gram(now, was), gram(was)]


def gram(rows: Any, others: Any = None) -> Any:
    """Sums over places of the products of features ``[batch, n, n]``, with those of other rows if they are given."""
    others = rows if others is None else others
    if len(rows) == 1:  # without a batch axis XLA:CPU is twice as fast
        return jnp.einsum("pi,pj->ij", rows[0], others[0], precision="highest")[None]
    return jnp.einsum("bpi,bpj->bij", rows, others, precision="highest")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Mean products of a layer's inputs, in one unit that gives them sizes near 1; ``[groups, n, n]``, float64.

    Attributes:
      fit: of examples to fit to, as they are now; with how they were; those.
      held: the same of the examples that are held out, about the means of the others; None if there are none.
      corrects: whether it is known how they were; else that is how they are.
      rows: how many were fitted to, and held out.
      examples: how many were fitted to.
    """

    fit: tuple[Any, Any, Any]
    held: tuple[Any, Any, Any] | None
    corrects: bool = False
    rows: tuple[float, float] = (0, 0)
    examples: int = 1

    def error(self, new: np.ndarray, old: np.ndarray, held: bool = True) -> np.ndarray:
        """The mean squared error of each output, ``[groups, out]``.

        Args:
          new: weights ``[groups, n, out]``, float64.
          old: those that the inputs were meant for.
          held: on the examples that are held out, or on those that were fitted to.
        """
        now, cross, was = self.held if held and self.held is not None else self.fit
        change = new - old
        if not self.corrects:
            return np.sum(change * (now @ change), 1)
        known = self._of_old.get(held)
        if known is None or known[0] is not old:
            rest = np.maximum(np.sum(old * ((now - 2 * cross + was) @ old), 1), 0)
            known = self._of_old[held] = old, 2 * (cross - now) @ old, rest
        return np.sum(change * (now @ change - known[1]), 1) + known[2]

    @functools.cached_property
    def _of_old(self) -> dict[bool, Any]:
        """What of the errors does not depend on new weights: for each half the old ones, and two products."""
        return {}

    def power(self, old: np.ndarray) -> float:
        """The mean square of what the outputs were, of the examples that are held out."""
        return float(np.sum(old * ((self.held or self.fit)[2] @ old)))

    def share(self, start: np.ndarray, end: np.ndarray, old: np.ndarray) -> float:
        """How far to go from some weights to others, in [0, 1], so that the held-out error is least; 0 if none is."""
        if self.held is None:
            return 0.0
        way, (now, cross, _) = end - start, self.held
        length = float(np.sum(way * (now @ way)))
        slope = float(np.sum(way * (cross @ old - now @ start)))
        return float(np.clip(slope / length, 0, 1)) if length > 0 else 0.0

    def pooled(self) -> "Evidence":
        """The same, with all examples to fit to."""
        if self.held is None:
            return self
        share = self.rows[1] / sum(self.rows)
        both = tuple((1 - share) * one + share * other for one, other in zip(self.fit, self.held, strict=True))
        return replace(self, fit=both, rows=(sum(self.rows), self.rows[1]))

    @functools.cached_property
    def chance(self) -> tuple[float, float, float]:
        """Of the correlations of inputs, those with themselves apart: squared errors by chance, squares, and how many.

        Errors are those of the examples to fit to, as their difference from the others has them, in all; positions of
        an image that are alike count for few.
        """
        if self.held is None:
            return 1.0, 1.0, 1.0
        own, other, share = self.fit[0], self.held[0], self.rows[1] / sum(self.rows)
        squares = [np.diagonal(x, axis1=1, axis2=2) for x in (own, other)]
        norms = np.sqrt(np.maximum((1 - share) * squares[0] + share * squares[1], 0))
        by = 1 / np.where(norms > 0, norms, 1)
        error = whole = 0.0
        for group, scale in enumerate(by):  # some rows at a time: whole matrices would not stay in the cache
            for first in range(0, len(scale), ROWS):
                rows = slice(first, first + ROWS)
                off = scale[rows, None] * scale
                np.fill_diagonal(off[:, first:], 0)
                error += np.sum(((own[group, rows] - other[group, rows]) * off) ** 2)
                whole += np.sum((own[group, rows] * off) ** 2)
        size = by.shape[1]
        return float(share * error), float(whole), float(len(by) * size * (size - 1))

    def moment(self) -> np.ndarray:
        r"""An estimate of the inputs' mean products: correlations shrunk by as much as they are due to chance.

        :math:`(1 - \rho) S + \rho \operatorname{diag} S`, :math:`\rho` the squared error of S's correlations over their
        squares. Nothing held out: the diagonal.

        Reference: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
        """
        error, whole, _ = self.chance
        shrink = min(error / whole, 1) if whole > 0 else 1.0
        own = self.fit[0]
        return (1 - shrink) * own + shrink * np.diagonal(own, axis1=1, axis2=2)[..., None] * np.eye(own.shape[-1])

    def aim(self, old: np.ndarray, moment: np.ndarray, damping: float) -> np.ndarray:
        """The weights that do now what others did (:func:`jaxcomp.core.quadratic.corrected`), by those to fit to.

        Args:
          old: the others, ``[groups, n, out]``, float64.
          moment: an estimate of the inputs' mean products.
          damping: as of :func:`jaxcomp.core.quadratic.damped`.
        """
        both = moment + (self.fit[1] - self.fit[0])
        weight, now, cross = (jnp.asarray(np.asarray(x, np.float32)) for x in (old, moment, both))
        return np.asarray(corrected(weight, now, cross, damping), np.float64)

    @property
    def worth(self) -> float:
        """How many rows that have nothing to do with each other those to fit to are worth, at least one an example.

        Of n such rows, a correlation's squared error is 1 / n.
        """
        error, _, count = self.chance
        return float(np.clip(count / error if error > 0 else np.inf, min(self.examples, self.rows[0]), self.rows[0]))

    @property
    def suffices(self) -> bool:
        """Whether they are three times the inputs, so that what is fitted to all examples can be judged on some."""
        return self.worth >= 3 * self.fit[0].shape[-1]

    def least_gain(self) -> float:
        """What part of the plain method's held-out error another must take (:func:`held_out.least_gain`)."""
        return least_gain(self.worth * self.rows[1] / max(self.rows[0], 1))


class Seen(NamedTuple):
    """What flows into the sites of a parameter, summed over batches.

    Attributes:
      fit: of the examples to fit to.
      held: of those that are held out.
    """

    fit: Moment
    held: Moment

    def added(self, other: "Seen") -> "Seen":
        """That of both."""
        return Seen(self.fit.merged(other.fit), self.held.merged(other.held))

    @property
    def sizes(self) -> np.ndarray:
        """The mean squares of the inputs; not finite where one of them is not."""
        return np.concatenate([own.ravel() for x in self for own in x.diagonals()])

    @property
    def reached(self) -> bool:
        """Whether anything but 0 flows there."""
        return bool(self.sizes.any())

    def evidence(self, examples: Sequence[Examples], centered: bool = False) -> Evidence:
        """The mean products; ``centered``: without means, of what a bias does not make up for."""
        means = self.fit.means if centered else None
        fit, held = self.fit.about(means), self.held.about(means)
        size = max(float(np.mean(np.diagonal(x.now, axis1=-2, axis2=-1))) / max(x.rows, 1) for x in (fit, held))
        by = [1 / host_unit(size) / max(x.rows, 1) for x in (fit, held)]
        own, other = (
            tuple(scale * (x.now if part is None else part) for part in x[2:])
            for x, scale in zip((fit, held), by, strict=True)
        )
        out, total = counts(examples)
        corrects = fit.cross is not None
        return Evidence(own, other if held.rows else None, corrects, (fit.rows, held.rows), total - out)


def joined(seen: Sequence[Seen]) -> Seen:
    """What several batches, or sites, say."""
    total, *others = seen
    for each in others:
        total = total.added(each)
    return total
