"""Low-rank projection: weights as near as a rank allows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import everything
from jaxcomp.core.meshes import replicated, spread_like
from jaxcomp.core.stacked import Axes
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.types import Compressor, Note, Params, Schedule, State, Step
from jaxcomp.core.units import unit

TOO_SMALL = "no matrix"


def _projector(weight: Array, rank: Any = None, energy: Any = None, stack: int = 0) -> Array:
    """Finds the projector whose product with a weight is the nearest one of a rank.

    Args:
      weight: ``[stack..., ..., in, out]``, the matrix of whatever is before the last axis by the last.
      rank: an integer number of components or a floating-point fraction of them all; may be traced.
      energy: instead, the share of the squared entries to keep.
      stack: how many leading axes hold weights of their own, which share a rank.

    Returns:
      ``[stack..., n, n]`` in float32 (float64 for float64 weights), n the matrix's smaller side.

    Example:
      >>> _projector(jnp.array([[3.0, 0.0], [0.0, 1.0]]), rank=1).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    matrix = _matrix(replicated(weight), stack)
    units = unit(jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True, initial=0))
    matrix = matrix / units  # squares of 1e-20 are 0 in float32, of 1e20 infinite
    across = jnp.swapaxes(matrix, -1, -2)
    pair = (matrix, across) if _left(matrix) else (across, matrix)
    values, vectors = jnp.linalg.eigh(jnp.matmul(*pair, precision="highest"))
    values, vectors = jnp.maximum(values[..., ::-1], 0), vectors[..., ::-1]
    full = values.shape[-1]
    if energy is not None:
        squares = values * jnp.square(units / jnp.max(units))[..., 0]
        sums = jnp.cumsum(squares.reshape(-1, full).sum(0))
        count = 1 + jnp.sum(sums < energy * sums[-1])
    elif jnp.issubdtype(jnp.result_type(rank), jnp.integer):
        count = jnp.asarray(rank)
    else:
        count = jnp.round(jnp.asarray(rank) * full).astype(jnp.int32)
    kept = jnp.where(jnp.arange(full) < jnp.clip(count, 1, full), vectors, 0)
    return jnp.matmul(kept, jnp.swapaxes(kept, -1, -2), precision="highest")


def _projected(weight: Array, onto: Array, stack: int = 0) -> Array:
    """Projects a weight onto a subspace, in its own dtype; the gradient is that of the product.

    A row or column that lies in the space already, up to rounding, comes back bit for bit: what was projected stays.

    Args:
      weight: ``[stack..., ..., in, out]``.
      onto: of :func:`_projector`.
      stack: as there.

    Returns:
      An array like ``weight``.

    Example:
      >>> w = jnp.array([[3.0, 0.1], [0.0, 1.0]])
      >>> _projected(w, jnp.array([[1.0, 0.0], [0.0, 0.0]])).tolist()
      [[3.0, 0.0], [0.0, 0.0]]
    """
    whole = replicated(weight)
    matrix = _matrix(whole, stack)
    left = _left(matrix)
    product = jnp.matmul(onto, matrix, precision="highest") if left else jnp.matmul(matrix, onto, precision="highest")
    axis = -2 if left else -1
    finfo = jnp.finfo(weight.dtype)
    rounding = float(finfo.eps) + 8 * math.sqrt(onto.shape[-1]) * float(jnp.finfo(matrix.dtype).eps)
    least = float(finfo.smallest_subnormal) * math.sqrt(onto.shape[-1])
    units = unit(jnp.max(jnp.abs(matrix), axis=axis, keepdims=True, initial=0))
    missed, size = (jnp.linalg.norm(x / units, axis=axis, keepdims=True) for x in (product - matrix, matrix))
    inside = missed <= rounding * size + least / units
    product = product.reshape(weight.shape).astype(weight.dtype)
    inside = jnp.broadcast_to(inside, matrix.shape).reshape(weight.shape)
    view = pass_through(jnp.where(inside, whole, product), product)
    return spread_like(view, weight)


@printed
def project(
    rank: float | Schedule | None = None,
    *,
    energy: float | Schedule | None = None,
    stack: int = 0,
    stacked: Axes | None = None,
) -> Compressor:
    r"""Shows each weight as the nearest one of low rank: :math:`W \mapsto W V_r V_r^T`.

    The matrix is that of everything before the last axis by the last one: ``[in, out]`` of a dense kernel, all places
    of the window and input channels by output channels of a convolution's. It is what :func:`jaxcomp.rewrite.factorize`
    by ``"svd"`` factorizes: the factors of the view compute what the view does. Each update finds the space anew;
    between updates weights move within it. Entries mix: zeros of another compressor do not stay, so prune afterwards.

    Args:
      rank: a whole number of components, or a fraction (a float) of them all in (0, 1], or an optax schedule of either.
      energy: instead of a rank, the share of the squared entries to keep, in (0, 1], or a schedule of it.
      stack: how many leading axes hold kernels of their own (layers stacked for a scan), which share a rank.
      stacked: the axis that counts layers, each with a rank of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a projector per tensor of two or more axes, ``[n, n]`` of the matrix's smaller side.
      Other tensors are left as they are.

    Raises:
      ArgumentError: if not exactly one of rank and energy is given, or one is out of range. A schedule's value is
        clipped.

    Example:
      >>> flat = project(rank=1)
      >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> flat.apply(params, flat.init(params))["kernel"].tolist()
      [[3.0, 0.0], [0.0, 0.0]]

    Reference: Eckart and Young, The approximation of one matrix by another of lower rank, 1936; Xu et al., TRP: trained
    rank pruning for efficient deep neural networks, 2020.
    """
    if (rank is None) == (energy is None):
        raise ArgumentError(f"project needs either rank= or energy=, got rank={rank!r} and energy={energy!r}")
    _check("rank" if energy is None else "energy", energy if rank is None else rank)
    if not isinstance(stack, int) or stack < 0:
        raise ArgumentError(f"stack must be a number of axes, got {stack!r}")

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        del state, extra
        now = {name: value(step) if callable(value) else value for name, value in (("rank", rank), ("energy", energy))}

        def fit(leaf: Any) -> Any:
            return _projector(leaf, **now, stack=stack) if _is_matrix(leaf, stack) else optax.MaskedNode()

        return jax.tree.map(fit, params)

    def apply(params: Params, state: State) -> Params:
        return leaves.map_view(lambda leaf, onto: _projected(leaf, onto, stack), params, state)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del step
        return {path: _note(leaf, node) for path, (leaf, node) in _paired(params, state).items()}

    made = Compressor(lambda params: update(params, None, 0), update, apply, describe, everything)
    return layer_by_layer(stacked, made)


def _note(leaf: Any, node: Any) -> Note:
    if leaves.left_out(node):
        return Note(skipped=TOO_SMALL if leaves.is_real(leaf) else leaves.NOT_REAL)
    return Note(rank=round(float(jnp.trace(node, axis1=-2, axis2=-1).mean())))


def _paired(params: Params, state: State) -> dict[str, tuple[Any, Any]]:
    named = leaves.named_states(params, state)
    return dict(zip(named, zip(jax.tree.leaves(params), named.values(), strict=True), strict=True))


def _check(what: str, value: Any) -> None:
    if callable(value):
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if what == "rank" and whole and value >= 1:
        return
    if isinstance(value, bool | str) or not 0 < value <= 1:
        needed = "a whole number of at least 1 or a fraction in (0, 1]" if what == "rank" else "a share in (0, 1]"
        raise ArgumentError(f"{what} must be {needed}, got {value!r}")


def _is_matrix(leaf: Any, stack: int) -> bool:
    return leaves.is_real(leaf) and leaf.ndim >= 2 + stack and leaf.size > 0


def _matrix(weight: Array, stack: int) -> Array:
    """``[stack..., in, out]``, in at least float32."""
    shape = (*weight.shape[:stack], -1, weight.shape[-1])
    return weight.reshape(shape).astype(leaves.wide(weight.dtype))


def _left(matrix: Array) -> bool:
    return matrix.shape[-2] < matrix.shape[-1]
