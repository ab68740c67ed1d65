"""Exact selection of the k largest scores by counting: no sort, static shapes, traced k, scalar all-reduces.

A threshold is searched on the bit patterns of the scores, where order is integer order. Each round counts, in one
read of the data, how many scores reach each of eight probes, and keeps the bracket that holds the answer. Among scores
equal to the threshold those of lowest index are kept: the same search, over indices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core import counting, probes
from jaxcomp.core.counting import Pieces, Ranked
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import is_explicit
from jaxcomp.core.probes import Found, Sought

_MAX_SIZE = 2**32 - 2


def keep_largest(
    values: Sequence[Array],
    keep: Array | Sequence[Any],
    group: Sequence[int],
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> list[Array]:
    """Masks the ``keep[g]`` elements of largest score in each group of arrays.

    Exactly ``keep[g]`` elements of group g are True, ties broken in favor of the lower index (arrays in the order
    given, elements in row-major order). The result depends on neither devices nor shardings. Of the scores, -0
    equals 0, and NaN is larger than any number: a NaN is kept, where it shows, and never pruned in silence.

    Args:
      values: floating-point arrays of any shapes.
      keep: ``[G]`` integers, each in [0, elements of the group]; may be traced.
      group: for each array, the group that it is ranked in: one of 0 ... G-1.
      score: elementwise, values -> floating-point scores. Computed anew in every pass, never stored.

    Returns:
      Boolean masks of the shapes of ``values``; True = kept.

    Raises:
      ArgumentError: for a group of 2**32 - 1 elements or more.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.array([0.1, -0.5, 0.5, 0.2])
      >>> keep_largest([w], [1], [0])[0].tolist()
      [False, True, False, False]
    """
    keep = jnp.asarray(keep, jnp.uint32)
    sizes, offsets = [0] * keep.shape[0], []
    for value, g in zip(values, group, strict=True):
        offsets.append(sizes[g])
        sizes[g] += value.size
    if max(sizes, default=0) > _MAX_SIZE:
        raise ArgumentError(f"{max(sizes)} elements are ranked as one group; at most {_MAX_SIZE} can be: split it")
    if not any(sizes):
        return [jnp.zeros(value.shape, bool) for value in values]
    # Pieces of an array that is split over devices would be gathered.
    in_pieces = jax.device_count() == 1 and not any(map(is_explicit, values)) and counting.can_be_cut(values)
    return _masks(list(values), keep, tuple(group), tuple(sizes), tuple(offsets), score, in_pieces)


def itself(scores: Array) -> Array:
    """Returns scores as they are: the ``score`` of values that are scores already, not ranked in magnitude.

    One function under one name: a search is compiled anew for each function of scores.
    """
    return scores


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _masks(
    values: list[Array],
    keep: Array,
    group: tuple[int, ...],
    sizes: tuple[int, ...],
    offsets: tuple[int, ...],
    score: Callable[[Array], Array],
    in_pieces: bool,
) -> list[Array]:
    dtype = counting.common({jax.eval_shape(score, value).dtype for value in values})

    def whole(values: list[Array], keep: Array) -> list[Array]:
        return _array_by_array(Ranked(values, group, sizes, offsets, score, dtype), keep)

    def pieces(values: list[Array], keep: Array) -> list[Array]:
        flat = [value.reshape(-1) for value in values]
        kept = _piece_by_piece(Ranked(flat, group, sizes, offsets, score, dtype), keep)
        return [mask.reshape(value.shape) for mask, value in zip(kept, values, strict=True)]

    if not in_pieces:
        return whole(values, keep)
    return lax.platform_dependent(values, keep, cpu=pieces, default=whole)


def _array_by_array(ranked: Ranked, keep: Array) -> list[Array]:
    group, count = np.arange(len(ranked.sizes)), functools.partial(counting.array_by_array, ranked)
    usual = probes.usual(keep.shape, ranked.dtype)
    sought = _threshold(ranked, keep, np.array(ranked.sizes, np.uint32), group, usual)
    found = probes.search(functools.partial(count, None), sought, group)
    level = probes.unorder(found.key, ranked.dtype)
    cut = probes.search(functools.partial(count, level), _ties(ranked, sought, found, group), group)
    return counting.masks(ranked, level, cut.key)


_SAMPLE, _SCORES, _TIES = 0, 1, 2
"""The searches: about where the thresholds lie, in a sample; the thresholds; the ranks on them."""


def _piece_by_piece(ranked: Ranked, keep: Array) -> list[Array]:
    pieces = Pieces(ranked)
    group, usual = pieces.group, probes.usual(keep.shape, ranked.dtype)
    in_sample = np.round(pieces.sizes * pieces.share).astype(np.uint32)
    sample = np.bincount(group, pieces.sizes * (pieces.share > 0), len(ranked.sizes))
    apart = probes.precision(ranked.dtype, sample)

    def search(what: Any, carry: tuple[Sought, Array, Array, list[Array]]) -> tuple[Sought, Array, Array, list[Array]]:
        sought, level, _, places = carry

        def count(at: Array, is_read: Array) -> Array:
            counts = pieces.count(what == _TIES, level, at, is_read)
            whole = jnp.round(counts.astype(jnp.float32) * pieces.share[:, None]).astype(jnp.uint32)
            return jnp.where(what == _SAMPLE, whole, counts)

        found = probes.search(count, sought, group)
        level = jnp.where(what == _SCORES, probes.unorder(found.key, ranked.dtype), level)
        first = jnp.where((sample > 0)[:, None], probes.around(found.key, apart), usual)
        then = _threshold(ranked, keep, pieces.sizes, group, first), _ties(ranked, sought, found, group)
        sought = jax.tree.map(functools.partial(jnp.where, what == _SAMPLE), *then)
        return sought, level, found.key, pieces.places(places, found.key)

    begin, sought = _SCORES, _threshold(ranked, keep, pieces.sizes, group, usual)
    if sample.any():
        begin, sought = _SAMPLE, _in_sample(ranked, sought, in_sample, group, apart)
    # One loop for all searches: the code that takes a piece from its array stands in it once.
    places = [jnp.uint32(i) for i in range(len(ranked.values))]
    start = sought, jnp.zeros(keep.shape, ranked.dtype), jnp.zeros_like(sought.low), places
    _, level, cut, places = lax.fori_loop(begin, _TIES + 1, search, start)
    return counting.masks(ranked, level, cut, places)


def _threshold(ranked: Ranked, keep: Array, sizes: Any, group: Any, first: Array) -> Sought:
    """The search for the score that as many reach as are kept, in parts of so many elements."""
    lowest, above_all = probes.ends(ranked.dtype)
    high = jnp.broadcast_to(above_all, keep.shape)
    count = jnp.where((keep == 0)[group], 0, jnp.asarray(sizes))
    return Sought(keep, jnp.where(keep == 0, high, lowest), count, high, first, jnp.ones_like(high))


def _in_sample(ranked: Ranked, whole: Sought, counts: Any, group: Any, apart: Any) -> Sought:
    """The score that about as many reach, as pieces of a sample stand for; of a group without one, nothing."""
    known = np.bincount(group, counts, len(ranked.sizes)).astype(np.uint32)
    target = jnp.clip(whole.target, np.minimum(known, 1), known)
    low, apart = jnp.minimum(whole.low, whole.high - 1), jnp.asarray(apart).astype(whole.apart.dtype)
    return whole._replace(target=target, low=low, low_count=jnp.asarray(counts), apart=apart)


def _ties(ranked: Ranked, sought: Sought, found: Found, group: Any) -> Sought:
    """The search for the lowest kept rank on the threshold: so many elements as are missing above it."""
    sums = functools.partial(probes.totals, group=group, groups=len(ranked.sizes))
    uncut, ones = sums(found.reach) == sought.target, jnp.ones_like(found.key)
    high = jnp.array(ranked.sizes, found.key.dtype) + 1
    target = jnp.where(uncut, 0, sought.target - sums(found.above))
    count = jnp.where(uncut[group], 0, found.reach - found.above)
    return Sought(target, ones, count, high, probes.within(ones, high), ones)
