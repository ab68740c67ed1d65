"""Exact selection of the k largest scores by counting: no sort, static shapes, traced k, scalar all-reduces.

A threshold is searched on the bit patterns of the scores, where order is integer order. Each round counts, in one
read of the data, how many scores reach each of eight probes, and keeps the bracket that holds the answer. Probes
sit where interpolation expects the answer (the first ones where a sample does), beside three that bound the worst
case; where they sit changes the number of rounds and never the result. Among scores equal to the threshold those
of lowest index are kept: the same search, over indices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide

Array = jax.Array
_Carry = tuple[Array, Array, Array, Array, Array]

_PROBES = 8
_STRIDE = 127  # one score in so many is sampled; odd, to meet every channel
_WORTH_SAMPLING = 2**18  # smaller groups are in the caches, where a round costs as little as a sample
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
    return _masks(list(values), keep, tuple(group), tuple(sizes), tuple(offsets), score)


def itself(scores: Array) -> Array:
    """The ``score`` of values that are scores already: the largest are kept, not the largest in magnitude.

    One function under one name: a search is compiled anew for each function of scores.
    """
    return scores


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _masks(
    values: list[Array],
    keep: Array,
    group: tuple[int, ...],
    sizes: tuple[int, ...],
    offsets: tuple[int, ...],
    score: Callable[[Array], Array],
) -> list[Array]:
    size = jnp.array(sizes, jnp.uint32)
    dtype = _common({jax.eval_shape(score, value).dtype for value in values})

    def scores(after: Array) -> list[Array]:
        # The barrier ties each pass to its probes: hoisted out of the loop, the scores would be held in memory.
        held = lax.optimization_barrier((values, after))[0]
        return [_clean(score(value).astype(dtype)) for value in held]

    def ranks(after: Array) -> list[Array]:
        """The first element of a group has the highest rank, the last has 1."""
        first = lax.optimization_barrier((size[jnp.array(group)] - jnp.array(offsets, jnp.uint32), after))[0]
        return [rank - _index(value.shape, after) for value, rank in zip(values, first, strict=True)]

    def reaching(probes: Array) -> Array:
        return _reaching(scores(probes), _unorder(probes, dtype), group)

    def ties_reaching(probes: Array) -> Array:
        tied = [s == level[g] for s, g in zip(scores(probes), group, strict=True)]
        rows = [_count([t & (r >= at) for at in probes[g]]) for t, r, g in zip(tied, ranks(probes), group, strict=True)]
        return _total(rows, group, len(sizes))

    def sampled() -> Array:
        parts: list[list[Array]] = [[jnp.zeros(0, dtype)] for _ in sizes]
        for value, g in zip(values, group, strict=True):
            parts[g].append(_clean(score(value.reshape(-1)[::_STRIDE]).astype(dtype)))
        return _bracket([jnp.concatenate(part) for part in parts], keep.astype(jnp.float32) / jnp.maximum(size, 1))

    def typical() -> Array:
        return _typical(keep.shape, dtype)

    lowest, highest = _order(jnp.array([-jnp.inf, jnp.inf], dtype))
    above_all = jnp.broadcast_to(highest + 1, keep.shape)
    # A strided sample of a sharded array would be gathered, and where memory is fast a round is cheap. Of many groups
    # it would double the time to compile, half a second a group.
    worth = max(sizes) >= _WORTH_SAMPLING and len(sizes) == 1 and jax.device_count() == 1
    threshold, reach, above = _search(
        reaching,
        keep,
        low=jnp.where(keep == 0, above_all, lowest),
        low_count=jnp.where(keep == 0, 0, size),
        high=above_all,
        first=lax.platform_dependent(cpu=sampled if worth else typical, default=typical),
    )
    level, uncut = _unorder(threshold, dtype), reach == keep
    cut, _, _ = _search(
        ties_reaching,
        jnp.where(uncut, 1, keep - above),
        low=jnp.ones_like(keep),
        low_count=jnp.where(uncut, 1, reach - above),
        high=size + 1,
        first=_evenly(jnp.ones_like(keep), size + 1),
    )
    return [
        (keep[g] > 0) & ((s > level[g]) | ((s == level[g]) & (rank >= cut[g])))
        for s, rank, g in zip(scores(cut), ranks(cut), group, strict=True)
    ]


def _common(dtypes: set[Any]) -> Any:
    """The type that scores are ranked in: their own, or one that holds all of them, and an infinity."""
    if len(dtypes) > 1:
        return wide(*dtypes)
    (dtype,) = dtypes
    return jnp.dtype(jnp.bfloat16) if dtype.itemsize == 1 else dtype


def _clean(scores: Array) -> Array:
    return jnp.where(jnp.isnan(scores), jnp.inf, scores)


def _bits_type(dtype: Any) -> tuple[Any, Array]:
    """The unsigned type of a float's bits, and its sign bit."""
    bits_type = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[jnp.dtype(dtype).itemsize]
    return bits_type, jnp.array(1 << (8 * jnp.dtype(dtype).itemsize - 1), bits_type)


def _order(scores: Array) -> Array:
    """Unsigned integers, of 32 bits or more, that order as the numbers do."""
    bits_type, sign = _bits_type(scores.dtype)
    bits = lax.bitcast_convert_type(scores, bits_type)
    wider = jnp.uint64 if bits_type == jnp.uint64 else jnp.uint32
    return jnp.where(bits >= sign, ~bits, bits | sign).astype(wider)


def _unorder(keys: Array, dtype: Any) -> Array:
    """The numbers that ``_order`` maps to these keys."""
    bits_type, sign = _bits_type(dtype)
    keys = keys.astype(bits_type)
    return lax.bitcast_convert_type(jnp.where(keys >= sign, keys ^ sign, ~keys), dtype)


def _index(shape: tuple[int, ...], after: Array) -> Array:
    """Row-major position of each element; tied to ``after`` as the scores are."""
    strides = np.cumprod((1, *shape[:0:-1]), dtype=np.uint32)[::-1]
    strides = lax.optimization_barrier((jnp.asarray(strides), after))[0]
    iotas = [lax.broadcasted_iota(jnp.uint32, shape, axis) * strides[axis] for axis in range(len(shape))]
    return functools.reduce(jnp.add, iotas, jnp.zeros(shape, jnp.uint32))


def _count(hits: list[Array]) -> Array:
    """How many elements of each boolean array are True: ``[K]`` uint32."""
    return _sums([hit.astype(jnp.uint32) for hit in hits])


def _total(rows: list[Array], group: Sequence[int], groups: int) -> Array:
    """The sums of rows ``[K]`` within each group: ``[G, K]``."""
    sums = [jnp.zeros_like(rows[0])] * groups
    for row, g in zip(rows, group, strict=True):
        sums[g] = sums[g] + row
    return jnp.stack(sums)


def _reaching(scores: list[Array], levels: Array, group: Sequence[int]) -> Array:
    """How many scores of each group reach each of its levels ``[G, K]``: ``[G, K]`` uint32."""
    rows = [_count([s >= at for at in levels[g]]) for s, g in zip(scores, group, strict=True)]
    return _total(rows, group, len(levels))


def _sums(operands: list[Array]) -> Array:
    """The sum of each array, all in one read of the data: ``[K]``.

    XLA:CPU runs one variadic reduction of eight counts four times as fast as a single plain one. Over several
    devices a variadic reduction is gathered, where plain sums are all-reduced; TPU and GPU fuse plain sums.
    """

    def plain(*operands: Array) -> Array:
        return jnp.stack([jnp.sum(operand, dtype=operand.dtype) for operand in operands])

    def variadic(*operands: Array) -> Array:
        zeros = [jnp.zeros((), operand.dtype) for operand in operands]
        add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]  # noqa: E731
        return jnp.stack(lax.reduce(list(operands), zeros, add, tuple(range(operands[0].ndim))))

    if jax.device_count() > 1:
        return plain(*operands)
    return lax.platform_dependent(*operands, cpu=variadic, default=plain)


def _typical(shape: tuple[int, ...], dtype: Any) -> Array:
    """First probes for numbers of which nothing is known: where weights usually lie, ``[*shape, K]``."""
    usual = jnp.exp2(jnp.array([-13.0, -9.0, -7.0, -6.0, -5.0, -4.0, -3.0, 0.0]))
    return jnp.broadcast_to(_order(usual.astype(dtype)), (*shape, _PROBES))


def _bracket(samples: list[Array], kept: Array) -> Array:
    """First probes from a sample of each group: evenly over where the threshold lies with 99 % probability.

    Args:
      samples: the scores of a part of each of G groups.
      kept: ``[G]``, the fraction to keep.

    Returns:
      ``[G, K]`` keys.
    """
    dtype, whole = samples[0].dtype, jnp.array([sample.size for sample in samples] * 2, jnp.uint32)
    expected = jnp.tile(kept, 2) * whole.astype(kept.dtype)
    margin = 2.5 * jnp.sqrt(expected * (1 - jnp.tile(kept, 2))) + 1
    targets = jnp.round(expected + margin * jnp.repeat(jnp.array([1, -1]), len(samples)))
    targets = jnp.clip(targets.astype(jnp.int32), 1, whole.astype(jnp.int32)).astype(jnp.uint32)
    lowest, highest = _order(jnp.array([-jnp.inf, jnp.inf], dtype))

    def count(probes: Array) -> Array:
        held = lax.optimization_barrier((samples, probes))[0]
        return _reaching([*held, *held], _unorder(probes, dtype), range(len(whole)))

    ends, _, _ = _search(
        count,
        targets,
        low=jnp.broadcast_to(lowest, targets.shape),
        low_count=whole,
        high=jnp.broadcast_to(highest + 1, targets.shape),
        first=_typical(targets.shape, dtype),
    )
    low, high = jnp.split(ends, 2)
    apart = jnp.arange(_PROBES, dtype=low.dtype)[None]
    steps = (high - low).astype(jnp.float32)[:, None] / (_PROBES - 1) * apart.astype(jnp.float32)
    return low[:, None] + jnp.maximum(steps.astype(low.dtype), apart)


def _evenly(low: Array, high: Array) -> Array:
    steps = jnp.arange(1, _PROBES + 1, dtype=jnp.float32)[None] / (_PROBES + 1)
    return low[:, None] + ((high - low).astype(jnp.float32)[:, None] * steps).astype(low.dtype)


def _search(
    count: Callable[[Array], Array], target: Array, *, low: Array, low_count: Array, high: Array, first: Array
) -> tuple[Array, Array, Array]:
    """Finds, per group, a key that exactly ``target`` elements reach, or else the last that more reach.

    Args:
      count: probes ``[G, K]`` -> how many elements of each group reach each probe, ``[G, K]`` uint32.
      target: ``[G]`` uint32.
      low: ``[G]`` keys that ``low_count >= target`` elements reach.
      high: ``[G]`` keys that fewer than ``target`` reach (none).
      first: ``[G, K]``, the first round's probes.

    Returns:
      The key, how many elements reach it, and, where that is not ``target``, how many reach the next key.
    """

    def open_brackets(low: Array, low_count: Array, high: Array) -> Array:
        return (low_count != target) & (high - low > 1)

    def round_(carry: _Carry) -> _Carry:
        low, low_count, high, high_count, probes = carry
        probes = jnp.clip(probes, low[:, None] + 1, jnp.maximum(high, low + 2)[:, None] - 1)
        counts = count(probes)
        still_open = open_brackets(low, low_count, high)[:, None]
        enough, short = still_open & (counts >= target[:, None]), still_open & (counts < target[:, None])
        low = jnp.maximum(low, jnp.max(jnp.where(enough, probes, low[:, None]), axis=1))
        low_count = jnp.minimum(low_count, jnp.min(jnp.where(enough, counts, low_count[:, None]), axis=1))
        high = jnp.minimum(high, jnp.min(jnp.where(short, probes, high[:, None]), axis=1))
        high_count = jnp.maximum(high_count, jnp.max(jnp.where(short, counts, 0), axis=1))
        return low, low_count, high, high_count, _interpolate(target, low, low_count, high, high_count)

    start = (low, low_count, high, jnp.zeros_like(target), first)
    low, low_count, _, high_count, _ = lax.while_loop(lambda c: jnp.any(open_brackets(*c[:3])), round_, start)
    return low, low_count, high_count


def _interpolate(target: Array, low: Array, low_count: Array, high: Array, high_count: Array) -> Array:
    """The next probes: every key of a narrow bracket, else three that divide it and five about the expected one."""
    width = high - low
    inside = jnp.maximum(low_count - high_count, 1).astype(jnp.float32)
    expected = (low_count - target).astype(jnp.float32) / inside
    noise = jax.lax.rsqrt(inside)  # the standard error of a rank among `inside` elements, in units of the bracket
    fixed = [jnp.full_like(expected, fraction) for fraction in (1 / 8, 1 / 2, 7 / 8)]
    about = [expected + offset for offset in (-1 / 32, -noise / 2, 0.0, noise / 2, 1 / 32)]
    fractions = jnp.clip(jnp.stack([*fixed, *about], axis=1), 0, 1 - 2**-20)
    far = low[:, None] + (fractions * width.astype(jnp.float32)[:, None]).astype(low.dtype)
    near = low[:, None] + jnp.arange(1, _PROBES + 1, dtype=low.dtype)[None]
    return jnp.where((width <= _PROBES + 1)[:, None], near, far)
