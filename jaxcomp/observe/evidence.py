"""Evidence: what data say of the inputs of a layer, of examples to fit to and of examples to judge on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.factored import Factored
from jaxcomp.core.halves import forms
from jaxcomp.core.units import host_unit
from jaxcomp.observe.held_out import Examples, counts, least_gain
from jaxcomp.observe.row_moments import ROWS, Lack, Moment, ratios, with_outer


class Part(NamedTuple):
    """Mean products of some examples' inputs, in units of :class:`Evidence`.

    Attributes:
      now: ``[groups, n, n]``, about the means of the examples.
      mean: how far those are from the point that errors are about, ``[groups, n]``.
      lack: what results lack, likewise; None if it is not known.
    """

    now: Any
    mean: Any
    lack: Lack | None

    @classmethod
    def of(cls, own: Moment, units: tuple[float, float], about: Moment | None) -> "Part":
        """Takes the part of a moment about the means of another, in the memory of its second moments.

        Args:
          own: the moment.
          units: in which its numbers are given.
          about: the other; None: about 0.
        """
        (x, e), by = ratios(own.units, units), 1 / max(own.rows, 1)
        mean = np.zeros(own.now.shape[:2], own.now.dtype) if own.mean is None else own.mean * x
        lack = None
        if own.lack is not None:
            cross = np.multiply(own.lack.cross, x * e * by, out=own.lack.cross)
            lack = Lack(own.lack.mean * e, cross, own.lack.squares * (e * e * by))
        now = np.multiply(own.now, x * x * by, out=own.now)
        if about is not None and about.mean is not None:
            x, e = ratios(about.units, units)
            mean = mean - about.mean * x
            if lack is not None and about.lack is not None:
                lack = lack._replace(mean=lack.mean - about.lack.mean * e)
        return cls(now, mean, lack)

    def products(self, group: int | slice = slice(None), rows: slice = slice(None)) -> Any:
        """Returns some rows of the inputs' mean products, of one group or several."""
        own, mean = self.now[group, rows], self.mean[group]
        return own + mean[..., rows, None] * mean[..., None, :] if mean.any() else own

    def pull(self) -> np.ndarray:
        """Returns the mean products of inputs and of what the outputs lack; they have to be known."""
        assert self.lack is not None
        return self.lack.cross + self.mean[..., None] * self.lack.mean[:, None]

    def squares(self, change: np.ndarray, lacking: float) -> np.ndarray:
        """Returns the mean squares of a change of weights, and of a share of what is lacking, ``[groups, out]``.

        Args:
          change: ``[groups, n, out]``, of the dtype of the products.
          lacking: the share; 0 where it is not known.
        """
        off = np.einsum("gn,gno->go", self.mean.astype(np.float64), change)
        found = forms(self.now, change)
        if self.lack is not None and lacking:
            mean, cross, squares = self.lack
            off += lacking * mean.astype(np.float64)
            found += 2 * lacking * np.sum(change * cross, 1, dtype=np.float64)
            found += lacking**2 * squares.astype(np.float64)
        return found + off * off

    def mixed(self, other: "Part", share: float) -> "Part":
        """Averages the mean products of both, the ``other`` with a weight of ``share``."""
        rest, off = 1 - share, other.mean - self.mean
        mean, now = self.mean + share * off, rest * self.now + share * other.now
        now = with_outer(now, share * rest, off, off) if off.any() else now
        if self.lack is None or other.lack is None:
            return Part(now, mean, None)
        more = other.lack.mean - self.lack.mean
        cross = with_outer(rest * self.lack.cross + share * other.lack.cross, share * rest, off, more)
        squares = rest * self.lack.squares + share * other.lack.squares + share * rest * more * more
        return Part(now, mean, Lack(self.lack.mean + share * more, cross, squares))


EVEN = 8
"""Rows of inputs alike, beside few that were seen."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Mean products of a layer's inputs, in units that give them, and what results lack, sizes near 1.

    Attributes:
      part: of examples to fit to.
      other: of the examples that are held out, about the means of the others or 0 as those are; None if there are none.
      rows: how many were fitted to, and held out.
      examples: how many were fitted to.
      unit: of what is lacking, over that of the inputs.
      squares: of the inputs about 0, their means over examples to fit to, ``[groups, n]``.
    """

    part: Part
    other: Part | None
    rows: tuple[float, float] = (0, 0)
    examples: int = 1
    unit: float = 1.0
    squares: Any = None

    @property
    def corrects(self) -> bool:
        """Whether it is known how inputs were; else that is how they are."""
        return self.part.lack is not None

    @property
    def reaches(self) -> bool:
        """Whether anything but 0 flows there, of examples to fit to."""
        return bool(np.diagonal(self.part.now, axis1=1, axis2=2).any() or self.part.mean.any())

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """The mean products of the inputs now, of examples to fit to, ``[groups, n, n]``."""
        return self.part.products()

    def error(self, new: np.ndarray, old: np.ndarray, held: bool = True) -> np.ndarray:
        """Returns the mean squared error of each output, ``[groups, out]``, float64.

        Args:
          new: weights ``[groups, n, out]``, float64.
          old: the weights before, whose outputs are aimed at.
          held: on the examples that are held out, or on those that were fitted to.
        """
        part = self.other if held and self.other is not None else self.part
        return self._squares(part, new - old, -1.0)

    def power(self, old: np.ndarray) -> float:
        """Returns the mean square of the outputs of the ``old`` weights, on the examples that are held out."""
        return float(self._squares(self.other or self.part, old, 1.0).sum())

    def _squares(self, part: Part, change: np.ndarray, lacking: float) -> np.ndarray:
        size = host_unit(np.max(np.abs(change), initial=0))
        found = part.squares((change / size).astype(part.now.dtype), lacking * self.unit / size)
        return np.maximum(found, 0) * size**2

    def share(self, start: np.ndarray, end: np.ndarray, old: np.ndarray) -> float:
        """Finds the point between two weights at which the held-out error is least.

        Args:
          start, end: weights ``[groups, n, out]``, float64.
          old: the weights before, whose outputs are aimed at.

        Returns:
          A number in [0, 1]; 0 if none is better than ``start``.
        """
        if self.other is None:
            return 0.0
        part, size = self.other, host_unit(max(np.max(np.abs(x), initial=0) for x in (end, start, old)))
        way, done = (((one - other) / size).astype(part.now.dtype) for one, other in ((end, start), (start, old)))
        length = float(part.squares(way, 0.0).sum())
        ahead = np.sum(way * np.matmul(part.now, done), dtype=np.float64) if done.any() else 0.0
        to, off = (np.einsum("gn,gno->go", part.mean.astype(np.float64), x) for x in (way, done))
        if part.lack is not None:
            by = self.unit / size
            ahead -= by * np.sum(way * part.lack.cross, dtype=np.float64)
            off -= by * part.lack.mean.astype(np.float64)
        slope = -float(ahead + np.sum(to * off))
        return float(np.clip(slope / length, 0, 1)) if length > 0 else 0.0

    def pooled(self) -> "Evidence":
        """Returns the same evidence with all examples to fit to."""
        if self.other is None:
            return self
        both = self.part.mixed(self.other, self.rows[1] / sum(self.rows))
        return replace(self, part=both, rows=(sum(self.rows), self.rows[1]))

    def uncorrelated(self) -> "Evidence":
        """Gives the inputs' squares alone, which few rows tell as if EVEN more had all inputs alike; none is held out.

        Where inputs vary about their means by nothing, these count.
        """
        squares = np.diagonal(self.inputs, axis1=1, axis2=2) if self.reaches else self.squares
        lean = EVEN / (self.worth + EVEN)
        squares = (1 - lean) * squares + lean * squares.mean(1, keepdims=True)
        now = (squares[..., None] * np.eye(squares.shape[1])).astype(self.part.now.dtype)
        return replace(self, part=Part(now, np.zeros_like(self.part.mean), None), other=None)

    @functools.cached_property
    def chance(self) -> tuple[float, float, float]:
        """Squared errors by chance, squares, and number of the inputs' correlations, those with themselves apart.

        Errors are those of the examples to fit to, as their difference from the others has them, in all; positions of
        an image that are alike count for few.
        """
        if self.other is None:
            return 1.0, 1.0, 1.0
        parts, share = (self.part, self.other), self.rows[1] / sum(self.rows)
        squares = [np.diagonal(x.now, axis1=1, axis2=2) + np.square(x.mean) for x in parts]
        norms = np.sqrt(np.maximum((1 - share) * squares[0] + share * squares[1], 0))
        by = 1 / np.where(norms > 0, norms, 1)
        error = whole = 0.0
        for group, scale in enumerate(by):
            for first in range(0, len(scale), ROWS):
                rows = slice(first, first + ROWS)
                off = scale[rows, None] * scale
                np.fill_diagonal(off[:, first:], 0)
                own, other = (off * part.products(group, rows) for part in parts)
                whole += float(np.vdot(own, own))
                own -= other
                error += float(np.vdot(own, own))
        size = by.shape[1]
        return float(share * error), float(whole), float(len(by) * size * (size - 1))

    def moment(self) -> np.ndarray:
        r"""Estimates the inputs' mean products: correlations shrunk by as much as they are due to chance.

        :math:`(1 - \rho) S + \rho \operatorname{diag} S`, :math:`\rho` the squared error of S's correlations over their
        squares. Nothing held out: the diagonal.

        Reference: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
        """
        error, whole, _ = self.chance
        shrink = min(error / whole, 1) if whole > 0 else 1.0
        found = (1 - shrink) * self.inputs
        places = np.arange(found.shape[-1])
        found[:, places, places] = self.inputs[:, places, places]
        return found

    def aim(self, old: np.ndarray, inputs: Factored) -> np.ndarray:
        r"""Fits weights whose outputs now are those of the old weights before, on the examples to fit to.

        :math:`\arg\min_V \sum |V^\top x' - W^\top x|^2 + \lambda |V - W|^2 = W + (H' + \lambda)^{-1} P`.

        Args:
          old: W ``[groups, n, out]``, float64.
          inputs: an estimate of the inputs' mean products now, :math:`H' + \lambda`.
        """
        size = host_unit(np.max(np.abs(old), initial=0))
        return old + np.float64(size) * inputs.solve((self.part.pull() * (self.unit / size)).astype(np.float32))

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
        return self.worth >= 3 * self.part.now.shape[-1]

    def least_gain(self) -> float:
        """Returns the part of the plain method's error that another must take: :func:`held_out.least_gain`."""
        return least_gain(self.worth * self.rows[1] / max(self.rows[0], 1))


class Seen(NamedTuple):
    """Sums of what flows into the sites of a parameter, over batches.

    Attributes:
      fit: of the examples to fit to.
      held: of those that are held out.
    """

    fit: Moment
    held: Moment

    def added(self, other: "Seen") -> "Seen":
        """Adds what ``other`` batches, or sites, say."""
        return Seen(self.fit.merged(other.fit), self.held.merged(other.held))

    def apart(self, outs: Sequence[int], units: Sequence[float]) -> "list[Seen]":
        """Splits what was summed up for several layers of the same inputs; they share the moments of these.

        Args:
          outs: the outputs of each layer, side by side.
          units: by which its weights were divided.
        """
        ends = np.cumsum(outs).tolist()
        takes = [slice(end - size, end) for end, size in zip(ends, outs, strict=True)]
        return [Seen(*both) for both in zip(*(own.apart(takes, units) for own in self), strict=True)]

    def copied(self) -> "Seen":
        """Returns the same, its moments of the inputs shared with no other."""
        return Seen(*(own._replace(now=own.now.copy()) if own.rows else own for own in self))

    @property
    def sizes(self) -> np.ndarray:
        """Sums of squares, of the inputs and of the results' lack; not finite where one of them is not."""
        lacks = [x.lack.squares.astype(np.float64) * x.units[1] ** 2 for x in self if x.lack is not None]
        return np.concatenate([own.ravel() for own in [*(x.squares() for x in self if x.rows), *lacks]])

    @property
    def reached(self) -> bool:
        """Whether anything but 0 flows there."""
        return any(bool(x.squares().any()) for x in self if x.rows)

    def evidence(self, examples: Sequence[Examples], centered: bool = False) -> Evidence:
        """Returns the mean products, in the memory of the sums, which are gone.

        Args:
          examples: the examples of each batch.
          centered: about the means of the examples to fit to: without what a bias makes up for.
        """
        about = self.fit if centered else None
        units = host_unit(max(_size(x, about) for x in self if x.rows)), max(x.units[1] for x in self) or 1.0
        squares = self.fit.squares() / max(self.fit.rows, 1) / units[0] ** 2
        part, other = (Part.of(x, units, about) if x.rows else None for x in self)
        out, total = counts(examples)
        assert part is not None
        return Evidence(part, other, (self.fit.rows, self.held.rows), total - out, units[1] / units[0], squares)


def _size(own: Moment, about: Moment | None) -> float:
    """The root mean square of inputs about the means of another moment, or about 0."""
    squares = own.squares() / own.rows
    if about is not None and about.mean is not None and own.mean is not None:
        mean, origin = (x.mean.astype(np.float64) * x.units[0] for x in (own, about))
        squares = np.maximum(squares - mean**2 + (mean - origin) ** 2, 0)
    return float(np.sqrt(np.mean(squares)))


def joined(seen: Sequence[Seen]) -> Seen:
    """Adds up what several batches, or sites, say."""
    total, *others = seen
    for each in others:
        total = total.added(each)
    return total
