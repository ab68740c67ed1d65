"""Codebooks: the few values that weights share, found from a histogram of them, and the weights shown by them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.axes import Axes, own_axes, usual_size
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import automatic, is_explicit, spread_like
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.types import Learned, Note
from jaxcomp.share.histogram import Histogram, histogram, moved, place_of_zero, values
from jaxcomp.share.starts import Start

ROUNDS = 12
"""Rounds of Lloyd's algorithm, after the start."""
CHAINED = 32
"""Up to so many centers are compared with one after another; among more, a weight's is searched for by halves."""


class Codebook(NamedTuple):
    """The state of a tensor, or of all that share one.

    Attributes:
      centers: ``[..., k]``: the tensor's axes, 1 where an axis shares a codebook, and the values, in float32 (float64
        for float64 weights); a :class:`jaxcomp.Learned` if they are trained.
    """

    centers: Any


def fitted(w: Array, k: int, axis: Axes, start: Start, importance: Array | None = None) -> Array:
    """Fits the codebooks of a tensor, each in order: ``[..., k]``.

    Args:
      w: ``[...]``.
      k: centers.
      axis: the axis or axes along which each index has a codebook of its own.
      start: from a histogram to the first centers.
      importance: ``[...]``, how much each weight counts; None: all alike.

    Raises:
      ArgumentError: if fewer than k weights share one, or one is not finite.
    """
    own = own_axes(axis, w.ndim)
    shared = [a for a in range(w.ndim) if a not in own]
    count = math.prod(w.shape[a] for a in shared)
    if w.size == 0:
        return jnp.zeros((*(w.shape[a] if a in own else 1 for a in range(w.ndim)), k), leaves.wide(w.dtype))
    if count < k:
        raise ArgumentError(
            f"{k} centers for {count} weights (shape {w.shape}, axis {axis}): give fewer, or leave the tensor out with "
            "jc.partition"
        )

    def fit(w: Array, *importance: Array) -> Array:
        rows = [
            each.astype(leaves.wide(each.dtype)).transpose(*own, *shared).reshape(-1, count)
            for each in (w, *importance)
        ]
        found = jax.vmap(lambda row, *f: of_tensors([row], k, start, usual_size(w.shape), list(f) or None))(*rows)
        return found.reshape(*(w.shape[a] if a in own else 1 for a in range(w.ndim)), k)

    return check(automatic(fit, w, *(() if importance is None else (importance,))))


def check(centers: Array) -> Array:
    """Returns a codebook; refuses one of weights that are not finite, where it can be seen.

    Raises:
      ArgumentError: if it is not finite.
    """
    if not isinstance(centers, jax.core.Tracer) and not bool(jnp.isfinite(centers).all()):
        raise ArgumentError("the weights hold NaN or infinity: mend them first")
    return centers


def of_tensors(
    tensors: list[Array], k: int, start: Start, usual: float, importance: list[Array] | None = None
) -> Array:
    """Fits one codebook of flat tensors together, in order: ``[k]``.

    Args:
      tensors: each ``[n]``.
      k: centers.
      start: from a histogram to the first centers.
      usual: the size of weights of which all are 0.
      importance: of each ``[n]``, how much a weight counts; None: all alike.
    """
    found = histogram(tensors, importance)
    centers = start(found, k)
    nearest = jnp.argmin(jnp.abs(centers - place_of_zero(found)))
    pinned = found.zeros & (jnp.arange(k) == nearest)
    centers = jnp.where(pinned, place_of_zero(found), centers)
    best = values(found, moved(found, centers, pinned, ROUNDS), pinned)
    return jnp.where(_is_empty(found), jnp.where(pinned, 0, _spread(k, usual, best.dtype)), best)


def _is_empty(found: Histogram) -> Array:
    """Whether all weights are 0: they are to become something else."""
    return (found.low == 0) & (found.width == 0)


def _spread(k: int, usual: float, dtype: Any) -> Array:
    return jnp.linspace(-usual, usual, k, dtype=dtype) if k > 1 else jnp.zeros(1, dtype)


def shown(w: Array, centers: Array) -> Array:
    """Shows a tensor by the nearest of its centers, the lower one of two that are equally near; 0 stays 0.

    Gradients reach the weights straight through, and each center as the sum over the weights that it stands for. What
    is not a number stays.

    Args:
      w: ``[...]`` floating point.
      centers: ``[..., k]``, in any order.

    Example:
      >>> shown(jnp.array([0.2, 0.9, 0.0]), jnp.array([[1.0, 0.5, -1.0]])).tolist()
      [0.5, 1.0, 0.0]
    """
    ordered = jnp.sort(centers, axis=-1)
    lookup = _one_after_another if centers.shape[-1] <= CHAINED else _by_halves
    found = lookup(w.astype(centers.dtype), ordered).astype(w.dtype)
    plain = jax.lax.stop_gradient(w)
    stays = (plain == 0) | jnp.isnan(plain)
    return pass_through(jnp.where(stays, plain, 0), w) + jnp.where(stays, 0, found)


def _one_after_another(w: Array, ordered: Array) -> Array:
    found = spread_like(ordered[..., 0], w)
    for j in range(1, ordered.shape[-1]):
        above = w > spread_like(jax.lax.stop_gradient(_middle(ordered[..., j - 1], ordered[..., j])), w)
        found = jnp.where(above, spread_like(ordered[..., j], w), found)
    return jnp.broadcast_to(found, w.shape)


def _by_halves(w: Array, ordered: Array) -> Array:
    layout = jax.typeof(w).sharding if is_explicit(w) else None
    return automatic(_searched, w, ordered, out=layout)


def _searched(w: Array, ordered: Array) -> Array:
    k = ordered.shape[-1]
    table = ordered.reshape(-1)
    middles = jax.lax.stop_gradient(_middle(ordered[..., :-1], ordered[..., 1:])).reshape(-1)
    book = jnp.arange(table.size // k).reshape(ordered.shape[:-1])
    index = jnp.zeros(w.shape, jnp.int32)
    for step in reversed([2**i for i in range((k - 1).bit_length())]):
        probe = index + step
        above = w > middles[book * (k - 1) + jnp.minimum(probe, k - 1) - 1]
        index = jnp.where((probe < k) & above, probe, index)
    return table[book * k + index]


def _middle(low: Array, high: Array) -> Array:
    return low / 2 + high / 2


def note_of(centers: Array) -> Note:
    """Makes the note of a tensor with a codebook."""
    k = centers.shape[-1]
    return Note(bits=max(1, (k - 1).bit_length()), remark=f"{k} centers" if centers.size == k else f"{k} centers each")


def held(centers: Any) -> Array:
    """Returns the centers as an array, trained or not."""
    return centers.value if isinstance(centers, Learned) else jax.lax.stop_gradient(centers)
