"""The search for a key that as many elements reach as are to be kept: eight probes a round, of many groups at once.

Probes sit where interpolation expects the answer, beside three that bound the worst case; where they sit changes the
number of rounds and never the result.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_Carry = tuple[Array, Array, Array, Array, Array]

PROBES = 8


def order(scores: Array) -> Array:
    """Maps numbers to unsigned integers, of 32 bits or more, of the same order."""
    bits_type, sign = _bits_type(scores.dtype)
    bits = lax.bitcast_convert_type(scores, bits_type)
    wider = jnp.uint64 if bits_type == jnp.uint64 else jnp.uint32
    return jnp.where(bits >= sign, ~bits, bits | sign).astype(wider)


def unorder(keys: Array, dtype: Any) -> Array:
    """Maps the ``keys`` of :func:`order` back to numbers of a ``dtype``.

    Example:
      >>> unorder(order(jnp.array([-1.5, 2.0])), jnp.float32).tolist()
      [-1.5, 2.0]
    """
    bits_type, sign = _bits_type(dtype)
    keys = keys.astype(bits_type)
    return lax.bitcast_convert_type(jnp.where(keys >= sign, keys ^ sign, ~keys), dtype)


def ends(dtype: Any) -> tuple[Array, Array]:
    """Returns the keys of the least number, and of more than the largest."""
    lowest, highest = order(jnp.array([-jnp.inf, jnp.inf], dtype))
    return lowest, highest + 1


def _bits_type(dtype: Any) -> tuple[Any, Array]:
    """The unsigned type of a float's bits, and its sign bit."""
    bits_type = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[jnp.dtype(dtype).itemsize]
    return bits_type, jnp.array(1 << (8 * jnp.dtype(dtype).itemsize - 1), bits_type)


def usual(shape: tuple[int, ...], dtype: Any) -> Array:
    """Makes first probes for numbers of which nothing is known, where weights usually lie: ``[*shape, K]`` keys.

    Args:
      shape: of the groups.
      dtype: of the numbers.
    """
    sizes = jnp.exp2(jnp.array([-13.0, -9.0, -7.0, -6.0, -5.0, -4.0, -3.0, 0.0]))
    return jnp.broadcast_to(order(sizes.astype(dtype)), (*shape, PROBES))


def precision(dtype: Any, sample: np.ndarray) -> np.ndarray:
    """Estimates half the standard error of a quantile, in keys: ``[G]``.

    Args:
      dtype: of the numbers.
      sample: ``[G]``, the number of elements that each quantile was found in.
    """
    return np.exp2(np.maximum(jnp.finfo(dtype).nmant - np.log2(np.maximum(sample, 1)) / 2 - 1, 0))


def around(keys: Array, apart: np.ndarray) -> Array:
    """Makes probes about ``keys``, the nearest ``apart`` away, the others 2, 8 and 64 times as far: ``[G, K]`` keys."""
    steps = apart[:, None] * np.array([-64, -8, -2, -1, 1, 2, 8, 64])
    return keys[:, None] + steps.astype(np.int64).astype(keys.dtype)


def within(low: Array, high: Array) -> Array:
    """Makes probes that divide brackets from ``low`` to ``high``, ``[G]`` keys, evenly, without ends: ``[G, K]``.

    Example:
      >>> within(jnp.array([0]), jnp.array([9])).tolist()
      [[1, 2, 3, 4, 5, 6, 7, 8]]
    """
    steps = jnp.arange(1, PROBES + 1, dtype=jnp.float32)[None] / (PROBES + 1)
    return low[:, None] + ((high - low).astype(jnp.float32)[:, None] * steps).astype(low.dtype)


class Sought(NamedTuple):
    """The targets of a search in each of G groups, whose elements lie in P parts.

    Attributes:
      target: ``[G]`` uint32: how many elements are to reach the key.
      low: ``[G]`` keys that at least ``target`` elements reach.
      low_count: ``[P]`` uint32: how many of each part do.
      high: ``[G]`` keys that fewer than ``target`` reach (none).
      first: ``[G, K]``, the first round's probes.
      apart: ``[G]`` keys: as close come two that are reached by as many and by fewer.
    """

    target: Array
    low: Array
    low_count: Array
    high: Array
    first: Array
    apart: Array


class Found(NamedTuple):
    """The results of a search in each of G groups, whose elements lie in P parts.

    Attributes:
      key: ``[G]``, that exactly ``target`` elements reach, or else the last that more reach.
      reach: ``[P]``, how many reach it.
      above: ``[P]``, how many reach the next key, where ``reach`` does not make up ``target``.
    """

    key: Array
    reach: Array
    above: Array


def search(count: Callable[[Array, Array], Array], sought: Sought, group: np.ndarray) -> Found:
    """Finds, per group, a key that exactly ``target`` elements reach, or else the last that more reach.

    Args:
      count: (probes ``[G, K]``, parts ``bool [P]`` that hold elements of a bracket still) -> how many elements of each
        of these parts reach each of its group's probes, ``[P, K]`` uint32.
      sought: what for.
      group: ``[P]``, that each part belongs to.
    """
    target = sought.target
    sums = functools.partial(totals, group=group, groups=len(target))

    def open_brackets(low: Array, low_count: Array, high: Array) -> Array:
        return (sums(low_count) != target) & (high - low > sought.apart)

    def round_(carry: _Carry) -> _Carry:
        low, low_count, high, high_count, probes = carry
        is_open = open_brackets(low, low_count, high)
        probes = jnp.clip(probes, low[:, None] + 1, jnp.maximum(high, low + 2)[:, None] - 1)
        is_read = is_open[group] & (low_count != high_count)
        counts = jnp.where(is_read[:, None], count(probes, is_read), low_count[:, None])
        enough = sums(counts) >= target[:, None]
        reaching, short = enough & is_open[:, None], ~enough & is_open[:, None]
        low = jnp.maximum(low, jnp.max(jnp.where(reaching, probes, 0), axis=1))
        high = jnp.minimum(high, jnp.min(jnp.where(short, probes, high[:, None]), axis=1))
        low_count = jnp.minimum(low_count, jnp.min(jnp.where(reaching[group], counts, low_count[:, None]), axis=1))
        high_count = jnp.maximum(high_count, jnp.max(jnp.where(short[group], counts, 0), axis=1))
        probes = _interpolate(target, low, sums(low_count), high, sums(high_count))
        return low, low_count, high, high_count, probes

    start = (sought.low, sought.low_count, sought.high, jnp.zeros_like(sought.low_count), sought.first)
    low, low_count, _, high_count, _ = lax.while_loop(lambda c: jnp.any(open_brackets(*c[:3])), round_, start)
    return Found(low, low_count, high_count)


def totals(counts: Array, group: np.ndarray, groups: int) -> Array:
    """Sums over the parts of each group: ``[P, ...] -> [G, ...]``.

    Args:
      counts: ``[P, ...]``.
      group: ``[P]``, the group of each part.
      groups: G.

    Example:
      >>> totals(jnp.array([1, 2, 4]), np.array([0, 1, 0]), 2).tolist()
      [5, 2]
    """
    if np.array_equal(group, range(groups)):
        return counts
    return jnp.zeros((groups, *counts.shape[1:]), counts.dtype).at[group].add(counts)


def _interpolate(target: Array, low: Array, low_count: Array, high: Array, high_count: Array) -> Array:
    """The next probes: every key of a narrow bracket, else three that divide it and five about the expected one."""
    width = high - low
    inside = jnp.maximum(low_count - high_count, 1).astype(jnp.float32)
    expected = (low_count - target).astype(jnp.float32) / inside
    noise = lax.rsqrt(inside)  # the standard error of a rank among `inside` elements, in units of the bracket
    fixed = [jnp.full_like(expected, fraction) for fraction in (1 / 8, 1 / 2, 7 / 8)]
    about = [expected + offset for offset in (-1 / 32, -noise / 2, 0.0, noise / 2, 1 / 32)]
    fractions = jnp.clip(jnp.stack([*fixed, *about], axis=1), 0, 1 - 2**-20)
    far = low[:, None] + (fractions * width.astype(jnp.float32)[:, None]).astype(low.dtype)
    near = low[:, None] + jnp.arange(1, PROBES + 1, dtype=low.dtype)[None]
    return jnp.where((width <= PROBES + 1)[:, None], near, far)
