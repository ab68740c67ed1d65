"""The best cut of a line of weighted points into segments, each at the expense of its variance: exact, in one pass."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.reproducible import rounded


class Cut(NamedTuple):
    """Segments of points in order.

    Attributes:
      starts: ``[k]``, the first point of each; a segment ends where the next begins, and may be empty.
      pinned: ``[k]`` bool: the segment whose center is given.
    """

    starts: Array
    pinned: Array


def partition(weights: Array, positions: Array, k: int, pin: Array, is_pinned: Array) -> Cut:
    r"""Cuts points into k segments of the least :math:`\sum_s \sum_{i \in s} w_i (x_i - c_s)^2`.

    ``D[m][j] = min_i D[m-1][i] + cost(i, j)``, all j at once. The costs of the segments that end at a point follow from
    those that ended before it (Welford), without a difference of large sums.

    Args:
      weights: ``[n]`` float, at least 0.
      positions: ``[n]``, in order.
      k: segments.
      pin: a position that is the center of one segment, if ``is_pinned``; all other centers are means.
      is_pinned: bool.

    Returns:
      The cut.

    Example:
      >>> ones = jnp.ones(4)
      >>> cut = partition(ones, jnp.array([0.0, 1.0, 5.0, 6.0]), 2, jnp.float32(0), jnp.array(False))
      >>> cut.starts.tolist()
      [0, 2]

    Reference: Wang and Song, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming, 2011.
    """
    n = positions.shape[0]
    cost, about = _costs(weights, positions, pin)
    none = jnp.full(n + 1, jnp.inf).at[0].set(0)

    def one_more(tables: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        free, fixed = tables
        by_mean, by_pin = (jnp.min(a[:, None] + b, 0) for a, b in ((fixed, cost), (free, about)))
        return (jnp.min(free[:, None] + cost, 0), jnp.minimum(by_mean, by_pin)), tables

    _, tables = lax.scan(one_more, (none, jnp.full(n + 1, jnp.inf)), length=k)

    def back(carry: tuple[Array, Array], before: tuple[Array, Array]) -> tuple[tuple[Array, Array], Any]:
        end, open_ = carry  # whether the segment of the pin is still to come
        free, fixed = before
        by_mean = jnp.where(open_, fixed, free) + cost[:, end]
        by_pin = jnp.where(open_, free + about[:, end], jnp.inf)
        here = jnp.min(by_pin) < jnp.min(by_mean)
        start = jnp.argmin(jnp.where(here, by_pin, by_mean))
        return (start, open_ & ~here), (start, here)

    _, (starts, pinned) = lax.scan(back, (jnp.asarray(n), is_pinned), tables, reverse=True)
    return Cut(starts, pinned)


def _costs(weights: Array, positions: Array, pin: Array) -> tuple[Array, Array]:
    """``[n + 1, n + 1]`` of start and end: the costs of segments about their means, and about the pin."""
    n = positions.shape[0]
    start = jnp.arange(n + 1)

    def point(sums: Any, j: Array) -> tuple[Any, tuple[Array, Array]]:
        mass, mean, cost, about = sums
        w, x = weights[j], positions[j]
        both = mass + w
        part = jnp.where(both > 0, w / jnp.where(both > 0, both, 1), 0)
        far = x - mean
        new = (
            both,
            mean + rounded(part * far),
            cost + rounded(rounded(part * mass) * rounded(far * far)),
            about + rounded(w * rounded((x - pin) * (x - pin))),
        )
        mass, mean, cost, about = (jnp.where(start <= j, each, 0) for each in new)
        ended = start <= j + 1
        return (mass, mean, cost, about), (jnp.where(ended, cost, jnp.inf), jnp.where(ended, about, jnp.inf))

    nothing = jnp.zeros(n + 1)
    _, rows = lax.scan(point, (nothing,) * 4, jnp.arange(n))
    empty = jnp.where(start == 0, 0, jnp.inf)
    cost, about = (jnp.concatenate([empty[None], each]).T for each in rows)
    return cost, about


def means(weights: Array, positions: Array, cut: Cut, pin: Array) -> Array:
    """Returns the centers of a cut, ``[k]``; that of an empty segment lies where it is cut.

    Args:
      weights: ``[n]``, how much each counts.
      positions: ``[n]``, in order.
      cut: into segments.
      pin: the position of 0, where the cut has pinned a segment.
    """
    n = positions.shape[0]
    index = jnp.arange(n)[None]
    ends = jnp.append(cut.starts[1:], n)
    own = jnp.where((index >= cut.starts[:, None]) & (index < ends[:, None]), weights[None], 0)
    mass = own.sum(1)
    middle = rounded(own * positions[None]).sum(1) / jnp.where(mass > 0, mass, 1)
    edge = positions[jnp.clip(cut.starts, 0, n - 1)]
    return jnp.where(cut.pinned, pin, jnp.where(mass > 0, middle, edge))
