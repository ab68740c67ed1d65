r"""The probabilities of codes, from those that came before: tables of whole numbers, alike on every machine.

A tensor is taken row by row (a row: one position and one input, all outputs) in slices. What a code's magnitude should
be follows from the mean magnitude of its column, of its row's input and of the same weight at earlier positions, all in
earlier slices; codes of like expectation share a table, which counts what came. So one who decodes knows each table
before it is needed, and none is stored. All arithmetic is of integers: no machine rounds otherwise.

Before a table has counted enough it leans on all codes of the tensor, and on :math:`(1 + (c/s)^2 / 2)^{-2}` of a code c
where s is expected. Many symbols lean longer: of 255 levels few have come often.

Reference: Weinberger, Seroussi, Sapiro, The LOCO-I lossless image compression algorithm, 2000 (contexts by magnitude).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

TOTAL = 1 << 16
"""The sum of a table."""

WIDEST = 1 << 10
"""The most symbols of a table."""

UNIT = 16
"""The expectation that magnitude 1 counts as."""

_FIRST, _TURN, _MOST = 1 << 6, 1 << 10, 1 << 18
"""Codes in the first slice, at least in what comes again at the next position, and in a slice at most."""
_SHIFT = 10
_LONG = 64
"""How many times longer than many rows are may be, so that their columns tell something."""


class Layout(NamedTuple):
    """A tensor as rows.

    Attributes:
      rows, columns: how many.
      period: after how many rows the same input comes again: at the next position, or with the next columns.
      splits: into how many groups the columns of a matrix are split, one group after the other.
    """

    rows: int
    columns: int
    period: int
    splits: int = 1

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> "Layout":
        """Lays a shape out in rows and columns: the last axis is the columns', the one before it the inputs'.

        Example:
          >>> Layout.of((3, 3, 16, 32)), Layout.of((10,))
          (Layout(rows=144, columns=32, period=16, splits=1), Layout(rows=10, columns=1, period=10, splits=1))
          >>> Layout.of((784, 300))
          Layout(rows=3136, columns=75, period=784, splits=4)
        """
        rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
        if columns > _LONG * rows or columns > _MOST or len(shape) < 2:
            return cls(rows * columns, 1, rows * columns)
        if len(shape) > 2:
            return cls(rows, columns, shape[-2])
        splits = max((n for n in (1, 2, 4, 8) if columns % n == 0 and columns >= 8 * n), default=1)
        return cls(splits * rows, columns // splits, rows, splits)

    def slices(self, first_version: bool = False) -> Iterator[tuple[int, int]]:
        """Yields runs of rows that are coded together, growing: little is known of the first.

        Args:
          first_version: as files of the first version have them: each group of columns but the first at once.

        Example:
          >>> list(Layout(5000, 8, 5000).slices())[:3]
          [(0, 8), (8, 16), (16, 32)]
          >>> list(Layout(1600, 8, 800, 2).slices())[-4:]
          [(800, 900), (900, 1000), (1000, 1200), (1200, 1600)]
        """
        begin, most = 0, max(1, _MOST // max(1, self.columns))
        if self.turn < self.rows:
            most = min(most, self.turn)
        first = -(-_FIRST // max(1, self.columns))
        while begin < self.rows:
            since = 0 if self.splits == 1 else begin - begin % self.period
            grown = begin if first_version or not since else max(begin - since, self.period // 8)
            ends = self.rows if self.splits == 1 else since + self.period
            end = min(ends, begin + min(most, max(grown, first)))
            yield begin, end
            begin = end

    def positions(self, begin: int, end: int) -> np.ndarray:
        """Returns the positions in the flat tensor of the codes of rows ``begin`` to ``end``."""
        if self.splits == 1:
            return np.arange(begin * self.columns, end * self.columns)
        group, row = np.divmod(np.arange(begin, end), self.period)
        first = (row * self.splits + group) * self.columns
        return (first[:, None] + np.arange(self.columns)).reshape(-1)

    @property
    def turn(self) -> int:
        """After how many rows the same input comes again in a later slice; no fewer than there are if it does not."""
        if self.splits > 1:
            return self.period
        turn = self.period * max(1, -(-_TURN // max(1, self.columns * self.period)))
        return turn if turn <= self.rows // 4 else self.rows


class Contexts:
    """The tables of a tensor's codes, slice by slice.

    Args:
      layout: of the tensor.
      low, high: the least and the greatest code.
      mean: the magnitude that its codes have on average, in units of 1 / UNIT.
    """

    def __init__(self, layout: Layout, low: int, high: int, mean: int):
        """Begins a tensor of which nothing else is known."""
        self.layout, self.low, self.symbols = layout, low, high - low + 1
        self._edges = _edges(max(abs(low), abs(high)))
        self._shapes = _shapes(np.arange(low, high + 1), np.concatenate([self._edges[:1], self._edges]))
        self._mean = int(np.searchsorted(self._edges, mean, "right"))
        self._counts = np.zeros(self._shapes.shape, np.int64)
        turn = layout.turn if layout.turn < layout.rows else 0
        self._column = np.zeros((layout.splits, layout.columns), np.int64)
        self._row = np.zeros(turn, np.int64)
        self._same = np.zeros((turn if layout.splits == 1 else 0, layout.columns), np.int32)
        self._done = 0

    def of(self, begin: int, end: int) -> np.ndarray:
        """Returns the table of each code of a slice: ``[rows, columns]`` uint8, once all before it were seen.

        Args:
          begin, end: its rows.
        """
        columns = self.layout.columns
        if not self._done:
            return np.full((end - begin, columns), self._mean, np.uint8)
        mean = UNIT * int(self._column.sum()) // (self._done * columns) + 1
        group = begin // self.layout.period if self.layout.splits > 1 else 0
        column = (UNIT * self._column[group] + 4 * mean) // (begin - group * self.layout.period + 4)
        if not len(self._row) or begin < len(self._row):
            tables = np.searchsorted(self._edges, column, "right").astype(np.uint8)
            return np.broadcast_to(tables, (end - begin, columns))
        at = np.arange(begin, end) % len(self._row)
        turns = (self._done - 1 - at) // len(self._row) + 1
        weight = columns // 2 + 4
        row = (UNIT * self._row[at] + weight * mean) // (turns * columns + weight)
        expected = column * row[:, None] // mean
        if len(self._same):
            expected = (UNIT * self._same[at].astype(np.int64) + 2 * expected) // (turns + 2)[:, None]
        return np.searchsorted(self._edges, expected.reshape(-1), "right").astype(np.uint8).reshape(expected.shape)

    def tables(self, of: Any = slice(None)) -> np.ndarray:
        """Returns every table, ``[tables, symbols]`` int64, each at least 1 and of sum TOTAL; or some, by number."""
        leaning = self.symbols * self._shapes[of] // 2 + (8 + self.symbols // 2) * self._of_all()
        weights = (self._counts[of] << _SHIFT) + leaning
        tables = 1 + weights * (TOTAL - self.symbols) // weights.sum(axis=1, keepdims=True)
        likeliest = tables.argmax(axis=1)
        tables[np.arange(len(tables)), likeliest] += TOTAL - tables.sum(axis=1)
        return tables

    def _of_all(self) -> np.ndarray:
        """How frequent each symbol is in the whole tensor, of sum ``1 << _SHIFT``; of many symbols smoothed."""
        counts = (self._counts.sum(axis=0) << _SHIFT) + 8 * self._shapes[self._mean]
        width = self.symbols // 16 if self.symbols > 16 else 0
        if width:
            zero = min(max(-self.low, 0), self.symbols - 1)
            spike, counts[zero] = counts[zero], counts[max(zero - 1, 0)]  # zeros may be many, their neighbors not
            sums = np.cumsum(np.concatenate([np.zeros(width + 1, np.int64), counts, np.zeros(width, np.int64)]))
            counts = (sums[2 * width + 1 :] - sums[: -2 * width - 1]) // (2 * width + 1)
            counts[zero] = spike
        return (counts << _SHIFT) // int(counts.sum())

    def see(self, begin: int, codes: np.ndarray, tables: np.ndarray) -> None:
        """Learns from a slice.

        Args:
          begin: its first row.
          codes: ``[rows, columns]``.
          tables: ``[rows, columns]``, the table of each.
        """
        flat = tables.reshape(-1).astype(np.int64) * self.symbols + (codes.reshape(-1) - self.low)
        self._counts += np.bincount(flat, minlength=self._counts.size).reshape(self._counts.shape)
        size = np.abs(codes)
        self._column[begin // self.layout.period if self.layout.splits > 1 else 0] += size.sum(axis=0)
        self._done = begin + len(codes)
        if len(self._row):
            at = np.arange(begin, self._done) % len(self._row)
            self._row[at] += size.sum(axis=1)
        if len(self._same):
            self._same[at] += size.astype(np.int32)


def _edges(most: int) -> np.ndarray:
    """Expectations between which tables change: two an octave."""
    edges = [1, 2, 3]
    while edges[-1] < UNIT * max(1, most):
        edges.append(edges[-2] * 2)
    return np.array(edges)


def _shapes(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """How codes fall off around each expectation: ``[scales, codes]``, each of sum ``1 << _SHIFT`` or a little less."""
    squares = 2 * scales[:, None] * scales[:, None]
    ratio = (squares << 20) // (squares + (UNIT * codes) ** 2)
    shape = (ratio * ratio >> 10) + 1
    return (shape << _SHIFT) // shape.sum(axis=1, keepdims=True)
