"""Differentiable k-means: weights learn which center to go to."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.axes import Axes
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import spread_like
from jaxcomp.core.stacked import Axes as Stacked
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor
from jaxcomp.share.cluster import check_count
from jaxcomp.share.codebook import Codebook, fitted, note_of, shown
from jaxcomp.share.starts import named


@printed
def dkm(
    k: int = 16, *, temperature: float = 0.1, rounds: int = 2, axis: Axes = None, stacked: Stacked | None = None
) -> Compressor:
    r"""Shows each weight as the nearest of k centers, with the gradients of a soft choice among them (DKM).

    Backward, the view is :math:`\sum_j a_j c_j` with :math:`a = \mathrm{softmax}(-(w - c)^2 / (T d^2))`, d the mean gap
    of the centers, and these are rounds of soft k-means of the weights, :math:`c_j \leftarrow \sum_i a_{ij} w_i /
    \sum_i a_{ij}`, from those that the last update found: gradients pass through choice and centers. Forward it is the
    nearest center itself: what is trained is what ships. (In the paper it is so after training alone.)

    Backward it holds k numbers a weight, one tensor at a time.

    Args:
      k: centers, 1 to 65,536; 0 is one where there is a 0 among the weights.
      temperature: T, above 0; lower is harder.
      rounds: of soft k-means, at least 1.
      axis: the axis or axes along which each index has a codebook of its own; None: one for the tensor.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a :class:`Codebook` per tensor.

    Raises:
      ArgumentError: for arguments out of range; from its functions as of :func:`cluster`.

    Example:
      >>> share = dkm(2)
      >>> w = jnp.array([0.9, 1.1, -2.0])
      >>> share.apply(w, share.init(w)).round(3).tolist()
      [1.0, 1.0, -2.0]

    Reference: Cho et al., DKM: differentiable k-means clustering layer for neural network compression, 2022.
    """
    check_count(k)
    if not temperature > 0:
        raise ArgumentError(f"temperature must be above 0, got {temperature!r}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ArgumentError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    start = named("optimal", 0)

    def view(w: Array, book: Codebook) -> Array:
        soft = jax.checkpoint(lambda w: _soft(w, book.centers, temperature, rounds))(w)
        hard = jax.lax.stop_gradient(shown(w, book.centers))
        return pass_through(hard, soft)

    made = tensorwise(lambda w: Codebook(fitted(w, k, axis, start)), view, lambda book: note_of(book.centers))
    return layer_by_layer(stacked, made)


def _soft(w: Array, centers: Array, temperature: float, rounds: int) -> Array:
    """``[...]``, the soft choice of each weight."""
    centers = jax.lax.stop_gradient(centers)
    real = w.astype(centers.dtype)
    shared = tuple(a for a in range(w.ndim) if centers.shape[a] == 1)
    gap = (centers.max(-1) - centers.min(-1)) / max(centers.shape[-1] - 1, 1)
    unit = spread_like(jnp.where(gap > 0, gap, 1), w)
    held_at_0 = centers == 0
    choice = jnp.ones(())
    for _ in range(rounds):
        parts = [(real - spread_like(centers[..., j], w)) / unit for j in range(centers.shape[-1])]
        choice = jax.nn.softmax(-jnp.square(jnp.stack(parts, -1)) / temperature, axis=-1)
        mass = jnp.sum(choice, axis=shared, keepdims=True)
        mean = jnp.sum(choice * real[..., None], axis=shared, keepdims=True) / jnp.where(mass > 0, mass, 1)
        centers = jnp.where(held_at_0 | (mass == 0), centers, mean)
    return jnp.sum(choice * centers, axis=-1).astype(w.dtype)
