"""Held-out examples: those that corrections are judged on, and nothing is fitted to."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import automatic
from jaxcomp.core.units import host_unit
from jaxcomp.trace.uses import Use

EVERY = 4
"""One example of so many is held out; of two or three, the last."""
ENOUGH = 32
"""A mean of so many adds at most 1 / 32 to a squared error, 1.6 % to an error: of fewer examples some are held out."""

KINDS = EVERY + 1
"""Kinds of examples, by their place in a batch, all of one kind held out or none; the last: what is of no example."""
EVERYTHING = np.ones(KINDS, bool)
"""All kinds."""

NO_BETTER = "the results on held-out examples are no better with it"
"""Why a correction was not made, as reports have it."""


class Split(NamedTuple):
    """Which entries of an axis are fitted to, and which are held out."""

    fit: np.ndarray
    held: np.ndarray


class Examples(NamedTuple):
    """The examples of one batch.

    Attributes:
      size: how many there are, along the first axis of the batch's first array; 1 where that is a number.
      held: which of them are held out.
      alone: whether it is the only example of all batches: then a quarter of its places is held out.
    """

    size: int
    held: tuple[bool, ...]
    alone: bool = False

    def axis(self, axes: Sequence[int]) -> int | None:
        """Finds which of some axes counts examples; None if none does, or there is no other example.

        The first that is as long as there are examples; else the first of a multiple of that length, with examples as
        its slower index.

        Args:
          axes: their sizes.
        """
        if self.alone:
            return None
        exact = [i for i, n in enumerate(axes) if n == self.size]
        return next(iter(exact or [i for i, n in enumerate(axes) if n and n % self.size == 0]), None)

    def kinds(self, shape: Sequence[int]) -> np.ndarray:
        """Returns the kind of example of each entry of a value, int32, broadcasting; alike in batches of one size."""
        at = self.axis(shape)
        if at is None:
            return np.full((1,) * len(shape), EVERY, np.int32)
        kinds = np.repeat(np.arange(self.size, dtype=np.int32) % EVERY, shape[at] // self.size)
        return kinds.reshape([-1 if i == at else 1 for i in range(len(shape))])

    def largest(self, x: Any, axis: int | None = None) -> Any:
        """Returns the largest entry of each kind of example, at least 0.

        Args:
          x: ``[...]``.
          axis: along which indices are kept apart; None: none.

        Returns:
          ``[kinds, 1]``, or ``[kinds, size of the axis]``.
        """
        kinds = self.kinds([1 if i == axis else n for i, n in enumerate(x.shape)])
        kept = [i for i, n in enumerate(kinds.shape) if n > 1]
        size = 1 if axis is None else x.shape[axis]
        own = jnp.max(x, [i for i in range(x.ndim) if i not in (*kept, axis)], initial=0)
        if kept and axis is not None and axis < kept[0]:
            own = own.T
        return jnp.zeros((KINDS, size), x.dtype).at[kinds.ravel()].max(own.reshape(-1, size))

    @property
    def fitted_kinds(self) -> np.ndarray:
        """Which kinds are fitted to."""
        return ~np.asarray([*self.held[:EVERY], *[False] * (KINDS - min(self.size, EVERY))])

    def split_axes(self, axes: Sequence[int]) -> Split:
        """Splits rows, those of all indices of some axes of sizes ``axes``, the last changing fastest.

        Where none of the axes counts examples, or there is one alone, the last quarter of the rows is held out.
        """
        rows, at = math.prod(axes), self.axis(axes)
        if at is None:
            return Split(*np.split(np.arange(rows), [rows - rows // EVERY]))
        held = np.repeat(np.asarray(self.held, bool), axes[at] // self.size)[:, None]
        held = np.broadcast_to(held, (math.prod(axes[:at]), axes[at], math.prod(axes[at + 1 :]))).ravel()
        return Split(np.flatnonzero(~held), np.flatnonzero(held))

    def held_of(self, x: np.ndarray) -> np.ndarray:
        """Returns the held-out part of a value, ``[examples, numbers]``; one row where no axis counts examples."""
        at = self.axis(x.shape)
        if at is None:
            return x.ravel()[None, x.size - x.size // EVERY :]
        own = np.moveaxis(x.reshape(*x.shape[:at], self.size, -1, *x.shape[at + 1 :]), at, 0)
        return own.take(np.flatnonzero(self.held), axis=0).reshape(sum(self.held), math.prod(own.shape[1:]))

    def held_means(self, count: int) -> np.ndarray:
        """Marks which of ``count`` means of :meth:`means` are held out: ``[count]`` bool."""
        if count == self.size and not self.alone:
            return np.asarray(self.held, bool)
        return np.arange(count) >= count - count // EVERY

    def row_means(self, use: Use, rows: Any) -> Any:
        """Averages the rows of each example, ``[groups, examples, n]``; without examples as :meth:`means`.

        Args:
          use: the site that reads them.
          rows: ``[groups, positions, n]``.
        """
        return automatic(lambda rows: self._row_means(_axes(use, rows.shape[1]), rows), rows)

    def _row_means(self, axes: Sequence[int], rows: Any) -> Any:
        at = self.axis(axes)
        if at is None:
            count = min(rows.shape[1], 2 * EVERY)
            length = rows.shape[1] // max(count, 1)
            return rows[:, : count * length].reshape(len(rows), count, length, -1).mean(2)
        own = rows.reshape(len(rows), math.prod(axes[:at]), self.size, -1, rows.shape[2])
        return own.mean((1, 3))

    def means(self, value: Any, axes: Sequence[int]) -> np.ndarray:
        """Averages a value over each example: ``[examples, features]``, float64.

        Of one example alone, and where no axis counts them, over up to eight stretches of positions.

        Args:
          value: ``[...]``.
          axes: of its features.
        """
        x = np.asarray(value)
        others = [i for i in range(x.ndim) if i not in axes]
        at = self.axis([x.shape[i] for i in others])
        if at is not None:
            others.insert(0, others.pop(at))
        rows = x.astype(wide(x.dtype), copy=False).transpose(*others, *axes)
        rows = rows.reshape(-1, math.prod(x.shape[i] for i in axes))
        count = self.size if at is not None else min(len(rows), 2 * EVERY)
        length = len(rows) // max(count, 1)
        return _means(rows[: count * length].reshape(count, length, rows.shape[1]))

    def split_rows(self, use: Use, rows: int) -> Split:
        """Splits the ``rows`` rows of the inputs of the site ``use`` (:func:`jaxcomp.observe.matrices.input_rows`)."""
        return self.split_axes(_axes(use, rows))


def _means(rows: np.ndarray) -> np.ndarray:
    """The means over the second axis, float64: numbers of the rows' own type add up only so far as that is exact."""
    count, length, size = rows.shape
    step = max(math.isqrt(length), 1)
    whole = length // step * step
    sums = rows[:, :whole].reshape(count, whole // step, step, size).sum(2)
    rest = rows[:, whole:].sum(1, dtype=np.float64)
    return np.asarray((sums.sum(1, dtype=np.float64) + rest) / max(length, 1))


def _axes(use: Use, rows: int) -> list[int]:
    """The axes that the rows of what a site reads run over, the last changing fastest."""
    shape = use.node.ins[1 - use.side].shape
    free = [shape[i] for i in use.input.free]
    return [*free, rows // free[0] if free[0] else 0] if use.is_conv else free


def examples_of(batches: Sequence[tuple[Any, ...]]) -> list[Examples]:
    """Splits each batch into examples, every fourth of all held out.

    Args:
      batches: each the tuple of a function's arguments.

    Example:
      >>> [own.held for own in examples_of([(np.ones((3, 2)),), (np.ones((2, 2)),)])]
      [(False, False, False), (True, False)]
    """
    arrays = [[x for x in jax.tree.leaves(batch) if np.ndim(x)] for batch in batches]
    sizes = [max(len(own[0]), 1) if own else 1 for own in arrays]
    total, start, found = sum(sizes), 0, []
    for size in sizes:
        number = np.arange(start, start + size)
        held = number % EVERY == EVERY - 1 if total >= EVERY else number == max(total - 1, 1)
        found.append(Examples(size, tuple(bool(x) for x in held), total == 1))
        start += size
    return found


def counts(examples: Sequence[Examples]) -> tuple[int, int]:
    """Counts the examples that are held out, and all of them."""
    return sum(sum(own.held) for own in examples), sum(own.size for own in examples)


def judged_on(examples: Sequence[Examples]) -> str:
    """Says on which examples errors were measured, for reports."""
    held, total = counts(examples)
    which = f"{held} of {total} examples" if held else "the last quarter of the places of the only example"
    return f"errors are those on {which} of what was fitted to the others"


LEAST = 0.02
"""The part of an error that must be gained, as whatever changes a layer rounds all later ones anew."""
SPREAD = 0.5
"""How far logarithms of examples' ratios spread, as of two roundings of one layer: a guess, worth one example."""


def least_gain(held: float) -> float:
    """Returns the part of the plain method's held-out error that another must take of a layer, to be no mere chance.

    Args:
      held: the number of independent examples that the rows held out are worth.
    """
    return LEAST + 0.2 / math.sqrt(max(held, 1))


def is_better(found: np.ndarray, plain: np.ndarray) -> bool:
    """Returns whether a function's results are better by more than chance.

    All errors together must be 2 % less, and the mean of the logarithms of the examples' ratios below 0 by its
    standard error, by Student's distribution for as many examples.

    Args:
      found: the squared error of each example that is held out; of none nothing can be told.
      plain: with the plain method.

    Example:
      >>> is_better(np.full(8, 0.5), np.ones(8)), is_better(np.full(8, 0.99), np.ones(8))
      (True, False)
    """
    if not found.sum() < (1 - LEAST) * plain.sum():
        return False
    mean, error = _log_ratio(found, plain)
    return mean < -error


def is_worse(found: np.ndarray, plain: np.ndarray) -> bool:
    """Returns whether a function is worse although each of its layers was found to be better.

    What is better layer by layer mostly is at the end, and few examples say little there: it is kept unless they say
    otherwise, by their sum and by the mean of the logarithms of their ratios. Of one example that is held out, or none,
    it has to be better: :func:`is_better`.

    Args:
      found: the squared error of each example that is held out.
      plain: with the plain method.
    """
    if len(found) < 2:
        return not is_better(found, plain)
    return bool(found.sum() > plain.sum() and _log_ratio(found, plain)[0] > 0)


def _log_ratio(found: np.ndarray, plain: np.ndarray) -> tuple[float, float]:
    """The mean of the logarithms of the examples' ratios, and how far it may be off by chance, one time in six.

    Student's quantile of n + 1 examples of which one is a guess, by Cornish and Fisher's expansion. Errors count from a
    sixteenth of the mean on: one that is 0 by chance would outweigh all others.

    Reference: Abramowitz and Stegun, Handbook of mathematical functions, 1964, 26.7.5.
    """
    n, least = len(found), float(np.mean(found + plain)) / 16 or 1.0
    ratios = np.log((found + least) / (plain + least))
    spread = math.sqrt((SPREAD**2 + float(np.sum(np.square(ratios - ratios.mean())))) / n)
    return float(ratios.mean()), (1 + 1 / (2 * n) + 1 / (4 * n * n)) * spread / math.sqrt(n)


def by_chance(each: np.ndarray) -> bool:
    r"""Returns whether moving a mean by its value on some examples would add more error than it removes.

    It removes :math:`\mu^2` and adds :math:`\sigma^2 / n`; the squared mean is :math:`\mu^2 + \sigma^2 / n` on average.
    Asks a little more of few examples, which tell :math:`\sigma` less well, and nothing of many.

    Args:
      each: ``[n, features]``, of each example; all features are judged together.

    Example:
      >>> by_chance(np.array([[1.0], [-1.0]])), by_chance(np.array([[1.0], [1.1]]))
      (True, False)
    """
    n = len(each)
    if n < 2 or n >= ENOUGH:
        return n < 2
    size = host_unit(np.max(np.abs(each), initial=0))
    mean, noise = np.sum(np.square(np.mean(each / size, 0))), np.sum(np.var(each / size, 0, ddof=1)) / n
    return bool(mean <= (2 + 8 / n) * noise)


def chance(n: int) -> str:
    """Says why a bias was left as it is on ``n`` examples, for reports."""
    return f"its means moved by no more than chance on {n} example{'s' * (n != 1)}"
