"""Histograms of weights: sums of whole numbers, the same however weights are sharded, and few enough to search."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.reproducible import rounded, steady_sum

BINS = 4096
PARTS = 64
"""Parts of a bin, in which its weights' place is counted: 32 million of them have a sum in int32."""
LEVELS = 10
"""Bits of each of the two whole numbers that importance is counted in: a millionth of the greatest counts."""


class Histogram(NamedTuple):
    """How many weights lie in each bin, and where. Positions are counted in bins.

    Attributes:
      counts: ``[bins]`` float32 of whole numbers, of the weights that are not 0, or of their importance.
      positions: ``[bins]``, the mean position of these, to a 64th of a bin; without any the middle.
      least: ``[bins]``, the least weight of each; infinity where there is none.
      greatest: ``[bins]``, the greatest; minus infinity where there is none.
      low: where the first bin begins.
      width: of a bin; 0 where all weights are equal.
      zeros: whether there is a 0 among the weights.
    """

    counts: Array
    positions: Array
    least: Array
    greatest: Array
    low: Array
    width: Array
    zeros: Array


def histogram(tensors: list[Array], importance: list[Array] | None = None) -> Histogram:
    """Counts the weights of tensors, in bins of one width over the range of them all.

    Args:
      tensors: each ``[n]`` float32 or float64, n above 0 of one at least.
      importance: of each ``[n]``, at least 0, how much a weight counts; None: all alike.

    Example:
      >>> found = histogram([jnp.array([0.0, 1.0, 3.0])])
      >>> int(found.counts.sum()), found.low.item(), found.width.item() * BINS
      (2, 0.0, 3.0)
    """
    held = [each for each in tensors if each.size]
    low = jnp.min(jnp.stack([jnp.min(each) for each in held]))
    high = jnp.max(jnp.stack([jnp.max(each) for each in held]))
    width = high / BINS - low / BINS
    parts = PARTS if importance is None else PARTS // 8
    digits = [jnp.zeros((2, BINS), jnp.int32) for _ in range(1 if importance is None else 2)]
    least, greatest = jnp.full(BINS, jnp.inf, low.dtype), jnp.full(BINS, -jnp.inf, low.dtype)
    for each, own in zip(held, _digits(tensors, importance), strict=True):
        place = jnp.clip((each - low) / jnp.where(width > 0, width, 1), 0, BINS * (1 - 2.0**-20))
        bins = place.astype(jnp.int32)
        part = ((place - bins.astype(place.dtype)) * parts).astype(jnp.int32)
        bins = jnp.where(each == 0, BINS, bins)
        digits = [
            sums.at[:, bins].add(jnp.stack([digit, digit * part]), mode="drop")
            for sums, digit in zip(digits, own, strict=True)
        ]
        least, greatest = least.at[bins].min(each, mode="drop"), greatest.at[bins].max(each, mode="drop")
    zeros = jnp.any(jnp.stack([jnp.any(each == 0) for each in held]))
    units = (2.0 ** (LEVELS * i) for i in range(len(digits)))
    counts, inside = jnp.stack([s.astype(jnp.float32) * unit for s, unit in zip(digits, units, strict=True)]).sum(0)
    part = jnp.where(counts > 0, inside / jnp.maximum(counts, 1) + 0.5, parts / 2) / parts
    positions = jnp.arange(BINS, dtype=jnp.float32) + part.astype(jnp.float32)
    return Histogram(counts, positions, least, greatest, low, width, zeros)


def _digits(tensors: list[Array], importance: list[Array] | None) -> list[list[Array]]:
    """The counts of each tensor that has weights: 1, or whole numbers, the low one first."""
    if importance is None:
        return [[jnp.ones(each.shape, jnp.int32)] for each in tensors if each.size]
    held = [each.astype(jnp.float32) for each in importance if each.size]
    most = jnp.max(jnp.stack([jnp.max(each) for each in held]))
    found = []
    for each in held:
        share = jnp.where(most > 0, each / jnp.where(most > 0, most, 1), 1)
        whole = jnp.round(share * (2 ** (2 * LEVELS) - 1)).astype(jnp.int32)
        found.append([whole & (2**LEVELS - 1), whole >> LEVELS])
    return found


def place_of_zero(found: Histogram) -> Array:
    """Returns where 0 lies, in bins."""
    return (-found.low / jnp.where(found.width > 0, found.width, 1)).astype(jnp.float32)


def moved(found: Histogram, centers: Array, pinned: Array, rounds: int) -> Array:
    """Runs Lloyd's algorithm: each bin goes to the nearest center, each center to the mean of its bins.

    Args:
      found: the weights.
      centers: ``[k]`` positions, in order.
      pinned: ``[k]`` bool, those that stay.
      rounds: how often.

    Returns:
      ``[k]`` positions, in order. A center without a bin stays.
    """
    x, counts = found.positions[None], found.counts[None]

    def step(_: int, centers: Array) -> Array:
        own = jnp.where(members(found, centers), counts, 0)
        weight, moment = steady_sum(own, (1,))[:, 0], steady_sum(rounded(own * x), (1,))[:, 0]
        return jnp.where(pinned | (weight == 0), centers, moment / jnp.maximum(weight, 1))

    return lax.fori_loop(0, rounds, step, centers)


def members(found: Histogram, centers: Array) -> Array:
    """Marks the bins of ``found`` that are nearest to each of the ordered ``centers``: ``[k, bins]`` bool."""
    above = found.positions[None] > ((centers[1:] + centers[:-1]) / 2)[:, None]
    all_ = jnp.ones((1, BINS), bool)
    return jnp.concatenate([all_, above]) & ~jnp.concatenate([above, ~all_])


def values(found: Histogram, centers: Array, pinned: Array) -> Array:
    """Returns the weights that centers stand for: a center of equal weights is that weight, a pinned one is 0.

    Args:
      found: the weights.
      centers: ``[k]`` positions, in order.
      pinned: ``[k]`` bool.
    """
    own = members(found, centers)
    least = jnp.min(jnp.where(own, found.least[None], jnp.inf), axis=1)
    greatest = jnp.max(jnp.where(own, found.greatest[None], -jnp.inf), axis=1)
    plain = rounded(found.width * centers.astype(found.width.dtype)) + found.low
    return jnp.where(pinned, 0, jnp.where(least <= greatest, jnp.clip(plain, least, greatest), plain))
