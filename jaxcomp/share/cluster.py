"""Clustered weights: each is shown as the nearest of a few centers, which fit the weights or are trained."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.axes import Axes, usual_size
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import everything
from jaxcomp.core.meshes import automatic
from jaxcomp.core.stacked import Axes as Stacked
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor, Learned, Note, Params, State, Step
from jaxcomp.share.codebook import Codebook, check, fitted, held, note_of, of_tensors, shown
from jaxcomp.share.starts import Start, named


@printed
def cluster(
    k: int = 16,
    *,
    axis: Axes = None,
    scope: str = "layer",
    start: str = "optimal",
    seed: int = 0,
    learn: bool = False,
    importance: Mapping[str, Any] | None = None,
    stacked: Stacked | None = None,
) -> Compressor:
    r"""Shows each weight as the nearest of k centers, with straight-through gradients.

    ``w -> argmin_c (w - c)^2`` over a codebook. Each update fits the codebook to the weights: from a start, Lloyd's
    algorithm on a histogram of 4,096 bins. 0 is a center wherever there is a 0 among the weights, and stands for
    itself: pruned weights stay pruned, and pull no other center. With ``learn`` the first codebook is trained instead,
    by gradients that each center gets as the sum over its weights (:func:`jaxcomp.learned`).

    Few values make small files, not fast networks: hardware multiplies by values, not by their indices.

    Args:
      k: centers of a codebook, 1 to 65,536; the one at 0 counts.
      axis: the axis or axes along which each index has a codebook of its own; None: one for the tensor.
      scope: ``"layer"``, or ``"global"``: one codebook for all tensors.
      start: ``"optimal"``: of the least squared error among 256 cuts; ``"linear"``: over the range;
        ``"density"``: quantiles; ``"kmeans++"``: drawn by squared distance.
      seed: of these draws.
      learn: whether the centers are trained after the first fit.
      importance: ``{path: f}``, of each weight: centers have the least :math:`\sum f (w - c)^2`. A Fisher or Hessian
        diagonal, :func:`jaxcomp.observe.fisher_diagonal`; None: all alike.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a :class:`Codebook` per tensor; of scope ``"global"`` one.

    Raises:
      ArgumentError: for k, a scope or a start out of range, and importance that is negative or not finite; from its
        functions, naming the path, for tensors of fewer than k weights, an axis that a tensor lacks, weights that are
        not finite, or importance that is missing or of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> share = cluster(3)
      >>> params = {"kernel": jnp.array([0.0, 0.9, 1.1, 0.0, -2.0])}
      >>> share.apply(params, share.init(params))["kernel"].round(3).tolist()
      [0.0, 1.0, 1.0, 0.0, -2.0]

    Reference: Han, Mao and Dally, Deep compression, 2016; Wu et al., Deep k-means, 2018.
    """
    check_count(k)
    if scope not in ("layer", "global"):
        raise ArgumentError(f"scope must be 'layer' or 'global', got {scope!r}")
    begin = named(start, seed)
    if scope == "global":
        if axis is not None or stacked is not None or importance is not None:
            raise ArgumentError("one codebook for all tensors (scope='global') has no axis, layers or importance")
        return _across(k, begin, learn)
    for path, own in (importance or {}).items():
        if not isinstance(own, jax.core.Tracer) and not bool(jnp.all((jnp.asarray(own) >= 0) & jnp.isfinite(own))):
            raise ArgumentError(f"the importance of {path!r} holds NaN, infinity or numbers below 0")
    made = tensorwise(
        lambda w, *f: Codebook(_kept_for(fitted(w, k, axis, begin, *f), learn)),
        lambda w, book: shown(w, held(book.centers)),
        lambda book: note_of(held(book.centers)),
        (lambda w, book: book) if learn else None,
        beside=importance,
    )
    return layer_by_layer(stacked, made)


def check_count(k: Any) -> None:
    """Raises an ArgumentError for what is no number of centers."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 2**16:
        raise ArgumentError(f"k is a number of centers, from 1 to 65,536; got {k!r}")


def _kept_for(centers: Array, learn: bool) -> Any:
    return Learned(centers) if learn else centers


def _across(k: int, start: Start, learn: bool) -> Compressor:
    """One codebook for all tensors, ``[k]``."""

    def init(params: Params) -> State:
        weights = [leaf for leaf in jax.tree.leaves(params) if leaves.is_real(leaf) and leaf.size]
        if weights and sum(leaf.size for leaf in weights) < k:
            raise ArgumentError(f"{k} centers for {sum(leaf.size for leaf in weights)} weights in all: give fewer")
        usual = usual_size(max((leaf.shape for leaf in weights), key=len, default=()))
        kind = leaves.wide(*(leaf.dtype for leaf in weights))
        if not weights:
            return Codebook(_kept_for(jnp.zeros(k, kind), learn))

        def fit(*tensors: Array) -> Array:
            return of_tensors([each.astype(kind).reshape(-1) for each in tensors], k, start, usual)

        return Codebook(_kept_for(check(automatic(fit, *weights)), learn))

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        del step, extra
        return state if learn else init(params)

    def apply(params: Params, state: State) -> Params:
        centers = held(state.centers)
        return jax.tree.map(lambda w: _of_one(w, centers) if leaves.is_real(w) else w, params)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del step
        note = note_of(held(state.centers))
        marks = leaves.map_real(lambda path, leaf: note, params)
        return {
            path: Note(skipped=leaves.NOT_REAL) if isinstance(mark, optax.MaskedNode) else mark
            for path, mark in leaves.named_states(params, marks).items()
        }

    return Compressor(init, update, apply, describe, everything)


def _of_one(w: Array, centers: Array) -> Array:
    return shown(w, centers.reshape(*[1] * w.ndim, -1))
