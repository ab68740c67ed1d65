"""Where the centers of a codebook start, before Lloyd's algorithm moves them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.reproducible import rounded
from jaxcomp.share.histogram import BINS, Histogram, place_of_zero
from jaxcomp.share.partition import means, partition

Start = Callable[[Histogram, int], Array]
"""``(histogram, k) -> [k] positions, in order``."""

COARSE = 256
"""Groups of bins between which the best cut is searched for: of one bin each, if no more hold weights."""


def linear(found: Histogram, k: int) -> Array:
    """Spaces ``k`` centers evenly over the range of the histogram ``found``."""
    del found
    return (jnp.arange(k, dtype=jnp.float32) + 0.5) * (BINS / k)


def density(found: Histogram, k: int) -> Array:
    """Places ``k`` centers at quantiles of the histogram ``found``: each with as many weights about it."""
    below = jnp.cumsum(found.counts)
    parts = (jnp.arange(k, dtype=jnp.float32) + 0.5) / k
    return jnp.searchsorted(below, below[-1] * parts).astype(jnp.float32) + 0.5


def kmeans_plus_plus(seed: int) -> Start:
    """Returns a start that draws each center from the weights, by the squared distance from those before.

    Reference: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """

    def start(found: Histogram, k: int) -> Array:
        x, draws = found.positions, jax.random.uniform(jax.random.key(seed), (k,))

        def drawn(chances: Array, draw: Array) -> Array:
            below = jnp.cumsum(chances)
            return x[jnp.clip(jnp.searchsorted(below, draw * below[-1], side="right"), 0, BINS - 1)]

        centers = jnp.full(k, drawn(found.counts, draws[0]))

        def another(j: int, centers: Array) -> Array:
            far = jnp.min(jnp.square(x[None] - centers[:, None]), axis=0)
            return centers.at[j].set(drawn(rounded(found.counts * far), draws[j]))

        return jnp.sort(jax.lax.fori_loop(1, k, another, centers))

    return start


def optimal(found: Histogram, k: int) -> Array:
    """Finds the ``k`` centers of least squared error among cuts between 256 groups of bins of ``found``."""
    held = found.counts > 0
    rank = jnp.cumsum(held) - 1
    group = jnp.where(held, rank * COARSE // jnp.maximum(rank[-1] + 1, COARSE), COARSE)
    weight = jnp.zeros(COARSE).at[group].add(found.counts, mode="drop")
    first = jnp.full(COARSE, jnp.float32(BINS)).at[group].min(found.positions, mode="drop")
    last = jnp.zeros(COARSE).at[group].max(found.positions, mode="drop")
    middle = jnp.where(weight > 0, (first + last) / 2, BINS)
    pin = place_of_zero(found)
    return means(weight, middle, partition(weight, middle, k, pin, found.zeros), pin)


def named(start: str, seed: int) -> Start:
    """Returns the start of a name.

    Args:
      start: ``"linear"``, ``"density"``, ``"kmeans++"`` or ``"optimal"``.
      seed: of the one that draws.

    Raises:
      ArgumentError: for another name.
    """
    starts = {"optimal": optimal, "linear": linear, "density": density, "kmeans++": kmeans_plus_plus(seed)}
    if start not in starts:
        raise ArgumentError(f"start must be one of {', '.join(map(repr, starts))}, got {start!r}")
    return starts[start]
