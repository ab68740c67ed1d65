"""How many scores reach a level: counted array by array where they lie, or piece by piece in one loop.

Array by array, sums are all that leaves a device. Each array is code of its own then, which takes a CPU longer to
compile than a network's step; there, one loop goes over pieces of all arrays that fit into its caches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core import probes
from jaxcomp.core.leaves import wide

Score = Callable[[Array], Array]

_PIECE = 2**14  # so many elements are counted at once: they stay in the first caches
_WORTH_SAMPLING = 8  # pieces; a round over a smaller group costs as little as a sample
_WORTH_CODE = 8  # pieces; smaller arrays are copied into one, as code for one costs more than it saves
_STRIDE = 13  # one piece of an array in so many is sampled


class Ranked(NamedTuple):
    """Arrays of which some elements are to be chosen.

    Attributes:
      values: of any shapes.
      group: that each array is ranked in.
      sizes: of the groups.
      offsets: elements of its group before each array.
      score: elementwise, ``values -> scores``.
      dtype: that scores are ranked in.
    """

    values: list[Array]
    group: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    score: Score
    dtype: Any

    @property
    def ranks(self) -> list[int]:
        """The rank of each array's first element: in a group the first has the highest, the last has 1."""
        return [self.sizes[g] - offset for g, offset in zip(self.group, self.offsets, strict=True)]

    def scores(self, value: Array) -> Array:
        """Scores an array in the common dtype, NaN above all numbers."""
        return clean(self.score(value).astype(self.dtype))


def clean(scores: Array) -> Array:
    """Replaces NaN among scores by infinity.

    Example:
      >>> clean(jnp.array([1.0, jnp.nan])).tolist()
      [1.0, inf]
    """
    return jnp.where(jnp.isnan(scores), jnp.inf, scores)


def common(dtypes: set[Any]) -> Any:
    """Returns the dtype that scores are ranked in: their own, or one that holds all of them, and an infinity."""
    if len(dtypes) > 1:
        return wide(*dtypes)
    (dtype,) = dtypes
    return jnp.dtype(jnp.bfloat16) if dtype.itemsize == 1 else dtype


def masks(ranked: Ranked, level: Array, cut: Array, places: Sequence[Any] | None = None) -> list[Array]:
    """Masks the elements that are kept: above their group's level, and on it those of ranks from ``cut`` on.

    Args:
      ranked: the arrays.
      level, cut: ``[G]``; a group that keeps nothing has a level that is no number.
      places: 0, 1, 2, ..., of each array its own, as :class:`Pieces` has them.

    Returns:
      Boolean arrays of their shapes; True = kept.
    """
    group, ranks = np.array(ranked.group, np.int32), np.array(ranked.ranks, np.uint32)
    levels, cuts = level[group], cut.astype(jnp.uint32)[group]
    limits = jnp.where(cuts <= ranks, ranks - cuts + 1, 0)
    return [
        _mask(value, levels[i], limits[i], ranked.score, ranked.dtype)
        for value, i in zip(ranked.values, places or range(len(group)), strict=True)
    ]


def array_by_array(ranked: Ranked, level: Array | None, at: Array, is_read: Array) -> Array:
    """Counts the elements of each group that reach each of its probes: ``[G, K]`` uint32.

    Args:
      ranked: the arrays.
      level: ``[G]`` scores, to count the ranks of elements of that score; None: to count scores.
      at: ``[G, K]`` probes: keys of scores, or ranks.
      is_read: ``[G]``: which groups' counts are read; all are made.
    """
    del is_read
    levels = probes.unorder(at, ranked.dtype) if level is None else at
    sums = [jnp.zeros(probes.PROBES, jnp.uint32) for _ in ranked.sizes]
    for value, g, rank in zip(ranked.values, ranked.group, ranked.ranks, strict=True):
        if level is None:
            sums[g] += _reach(value, levels[g], ranked.score, ranked.dtype)
        else:
            sums[g] += _ties(
                value, level[g], levels[g].astype(jnp.uint32), jnp.uint32(rank), ranked.score, ranked.dtype
            )
    return jnp.stack(sums)


# One function for all arrays of a shape: each is traced once, whatever arrays and rounds there are. The barriers tie
# a pass to its probes: hoisted out of the loop, scores would be held in memory.


@functools.partial(jax.jit, static_argnums=(2, 3))
def _reach(value: Array, levels: Array, score: Score, dtype: Any) -> Array:
    value, levels = lax.optimization_barrier((value, levels))
    scores = clean(score(value).astype(dtype))
    return _plain_sums([scores >= at for at in levels])


@functools.partial(jax.jit, static_argnums=(4, 5))
def _ties(value: Array, level: Array, at: Array, rank: Array, score: Score, dtype: Any) -> Array:
    value, at, rank = lax.optimization_barrier((value, at, rank))
    tied = clean(score(value).astype(dtype)) == level
    ranks = rank - _index(value.shape, at)
    return _plain_sums([tied & (ranks >= probe) for probe in at])


@functools.partial(jax.jit, static_argnums=(3, 4))
def _mask(value: Array, level: Array, limit: Array, score: Score, dtype: Any) -> Array:
    value, level, limit = lax.optimization_barrier((value, level, limit))
    scores = clean(score(value).astype(dtype))
    return (scores > level) | ((scores == level) & (_index(value.shape, limit) < limit))


def _index(shape: tuple[int, ...], after: Array) -> Array:
    """Row-major position of each element; of several axes tied to ``after`` as the scores are."""
    if len(shape) < 2:
        return lax.iota(jnp.uint32, shape[0]) if shape else jnp.uint32(0)
    strides = np.cumprod((1, *shape[:0:-1]), dtype=np.uint32)[::-1]
    strides = lax.optimization_barrier((jnp.asarray(strides), after))[0]
    iotas = [lax.broadcasted_iota(jnp.uint32, shape, axis) * strides[axis] for axis in range(len(shape))]
    return functools.reduce(jnp.add, iotas)


def _plain_sums(hits: list[Array]) -> Array:
    """Over several devices plain sums are all-reduced, where a variadic reduction would be gathered."""
    return jnp.stack([jnp.sum(hit, dtype=jnp.uint32) for hit in hits])


def _sums(hits: list[Array]) -> list[Array]:
    """How many are True, of each: XLA:CPU fuses into one variadic reduction, and reads once.

    It runs eight counts four times as fast as a single plain one.
    """
    zeros = [jnp.uint32(0)] * len(hits)
    add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]  # noqa: E731
    return lax.reduce([hit.astype(jnp.uint32) for hit in hits], zeros, add, (0,))


def can_be_cut(values: Sequence[Array]) -> bool:
    """Returns whether a position in each array, or in all small ones together, is an int32, as a piece's is."""
    small = sum(value.size for value in values if value.size < _WORTH_CODE * _PIECE)
    return max(small + _PIECE, *(value.size for value in values)) < 2**31


class Pieces:
    """All arrays as pieces of one length, each from one array.

    Large arrays are read where they lie, by code of their size; the others from one that holds all of them. Of what a
    piece holds, elements from ``begin`` to ``end`` count: a last one overlaps with the one before, and what lies before
    a short array is no part of it.

    Attributes:
      group: ``[P]``, that each piece is ranked in.
      sizes: ``[P]``, elements of each piece.
      share: ``[P]``, how many elements of its array each counts for of a piece that is read first, to know about where
        a large group's threshold lies: 0 for those that are not.
    """

    def __init__(self, ranked: Ranked):
        """Takes what is ranked, its arrays flat."""
        self._ranked = ranked
        sizes = [value.size for value in ranked.values]
        self._length = min(_PIECE, 1 << (max(*sizes, 2) - 1).bit_length())
        large = [i for i, size in enumerate(sizes) if size >= _WORTH_CODE * self._length]
        small = sorted(set(range(len(sizes))) - set(large))
        self._sources: list[tuple[Array, Score]] = [(ranked.values[i], ranked.scores) for i in large]
        # The source that each array is in, and where it begins there.
        source, start = np.zeros(len(sizes), np.int32), np.zeros(len(sizes), np.int64)
        source[large] = np.arange(len(large))
        if small:
            source[small] = len(large)
            start[small] = self._length + np.cumsum([0, *(sizes[i] for i in small[:-1])])
            self._sources.append(self._together([ranked.values[i] for i in small]))
        cut = [(i, at) for i, size in enumerate(sizes) for at in range(0, size, self._length)]
        array = np.array([i for i, _ in cut], np.int32)
        begin = np.array([at for _, at in cut], np.int64)
        end = np.minimum(begin + self._length, np.array(sizes)[array])
        self._source = source[array]
        self._begin, self._end = ((start[array] + at).astype(np.int32) for at in (begin, end))
        self._rank = (np.array(ranked.ranks, np.int64) + start)[array].astype(np.uint32)  # of a source's first element
        self.group = np.array(ranked.group, np.int32)[array]
        self.sizes = (end - begin).astype(np.uint32)
        sampled = (np.array(ranked.sizes) >= _WORTH_SAMPLING * self._length)[self.group]
        middle = np.minimum(_STRIDE, -(-np.array(sizes) // self._length))[array] // 2
        sampled &= begin // self._length % _STRIDE == middle
        read = np.bincount(array, self.sizes * sampled, len(sizes))[array]
        self.share = np.where(sampled, np.array(sizes)[array] / np.maximum(read, 1), 0).astype(np.float32)

    def _together(self, values: Sequence[Array]) -> tuple[Array, Score]:
        """One array of all elements, after as many that are none as a piece has, and what makes scores of them."""
        score: Score = self._ranked.scores
        if len({value.dtype for value in values}) > 1:
            values, score = [score(value) for value in values], lambda scores: scores
        return jnp.concatenate([jnp.zeros(self._length, values[0].dtype), *values]), score

    @staticmethod
    def places(before: Sequence[Any], found: Array) -> list[Array]:
        """Returns the numbers 0, 1, 2, ... of arrays, ``before``, as results that a compiler does not know.

        XLA:CPU compiles equal kernels once. Those of arrays of one size are equal if no constant tells them apart.

        Args:
          before: the numbers.
          found: keys that a search found, none of which is 0.
        """
        zero = (found[0] == 0).astype(jnp.uint32)  # no key is 0
        return [place + zero for place in before]

    def count(self, on_level: Any, level: Array, at: Array, is_read: Array) -> Array:
        """Counts the elements of each piece that reach each of its group's probes: ``[P, K]`` uint32.

        Args:
          on_level: whether the ranks of elements on their group's level are counted, or scores; may be traced.
          level: ``[G]`` scores.
          at: ``[G, K]`` probes: keys of scores, or ranks.
          is_read: ``[P]``, the pieces that are counted; of the others there are zeros.
        """
        group = self.group.astype(np.uint32)
        known = self._source, self._begin, self._end, group, self._rank
        levels = probes.unorder(at, self._ranked.dtype)

        def row(i: Any) -> Array:
            source, begin, end, g, rank = (jnp.asarray(each)[i] for each in known)

            def index() -> Array:  # made anew in each kernel, rather than held
                return end - self._length + lax.iota(jnp.int32, self._length)

            def reach(scores: Array) -> list[Array]:
                return _sums([scores >= each for each in levels[g]])

            def ties(scores: Array) -> list[Array]:
                tied, ranks = (scores == level[g]) & (index() >= begin), rank - index().astype(jnp.uint32)
                return _sums([tied & (ranks >= each) for each in at[g].astype(jnp.uint32)])

            def of_piece(value: Array, score: Score, then: Callable[[Array], Any]) -> Any:
                held = lax.dynamic_slice(value, (first,), (self._length,))
                return then(jnp.where(index() >= begin, score(held), -jnp.inf))

            def of_any(then: Callable[[Array], Any]) -> Any:
                each = [functools.partial(of_piece, *source, then) for source in self._sources]
                return lax.switch(source, each)

            first = (end - self._length).astype(jnp.uint32)  # an index without a sign is not looked at for one
            # Scores are counted where they are made, by code for each source; ranks in few pieces, which are copied.
            return jnp.stack(lax.cond(on_level, lambda: ties(of_any(lambda own: own)), lambda: of_any(reach)))

        def one(i: Any, counts: Array) -> Array:
            # The branches hold a row each: all counts would be copied into them and out.
            found = lax.cond(is_read[i], row, lambda i: jnp.zeros(at.shape[1], jnp.uint32), i)
            return lax.dynamic_update_index_in_dim(counts, found, i, 0)

        return lax.fori_loop(0, len(self.group), one, jnp.zeros((len(self.group), at.shape[1]), jnp.uint32))
