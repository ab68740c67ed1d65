"""Learned thresholds: every tensor finds its own sparsity."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.core import leaves
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import by_mask
from jaxcomp.core.meshes import spread_like
from jaxcomp.core.scalars import is_number
from jaxcomp.core.types import Compressor, Learned, Note, Params, State, Step


@printed
def learned_threshold(start: float = -5.0, *, shrink: bool = False) -> Compressor:
    r"""Prunes weights below a threshold that is trained, :math:`w \mapsto w \cdot [|w| > \sigma(s)]` (STR).

    Gradients, to the weights that are kept and to s, are those of the soft threshold,
    :math:`\mathrm{sign}(w) \max(|w| - \sigma(s), 0)`. Weight decay on s, towards a threshold of 1/2, sets the pace. The
    sparsity is an outcome, which :func:`jaxcomp.measure.summary` tells. How to train it: :func:`jaxcomp.learned`.

    Args:
      start: the first s of every tensor; -5 is a threshold of 0.0067.
      shrink: show the soft threshold itself, as in the paper. That view is not idempotent: a view of it is smaller yet,
        so that it belongs in the loss and not after the optimizer's step.

    Returns:
      A compressor whose state is a :class:`jaxcomp.Learned` float32 scalar per tensor.

    Raises:
      ArgumentError: if ``start`` is not finite.

    Example:
      >>> import jaxcomp as jc
      >>> prune = learned_threshold(0.0)
      >>> prune.apply(jnp.array([0.4, -0.6]), prune.init(jnp.zeros(2))).tolist()
      [0.0, -0.6000000238418579]

    Reference: Kusupati et al., Soft threshold weight reparameterization for learnable sparsity, 2020.
    """
    if not (is_number(start) and math.isfinite(start)):
        raise ArgumentError(f"start must be a finite number, got {start!r}")

    def init(params: Params) -> State:
        return leaves.map_real(lambda path, leaf: Learned(jnp.full((), start, jnp.float32)), params)

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        del params, step, extra
        return state

    def view(leaf: Any, node: Learned) -> Any:
        level = jax.nn.sigmoid(node.value)
        size = jnp.abs(leaf).astype(leaves.wide(leaf.dtype))
        kept = ~(size <= spread_like(level.astype(size.dtype), leaf))  # NaN is kept, where it shows
        moved = level if shrink else level - jax.lax.stop_gradient(level)  # the latter is 0, with a slope
        return jnp.where(kept, leaf - jnp.sign(leaf) * moved.astype(leaf.dtype), jnp.zeros_like(leaf))

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del step
        return {
            path: Note(skipped=leaves.NOT_REAL)
            if leaves.left_out(node)
            else Note(remark=f"threshold learned, now {float(jax.nn.sigmoid(node.value)):.4g}")
            for path, node in leaves.named_states(params, state).items()
        }

    def apply(params: Params, state: State) -> Params:
        return leaves.map_view(view, params, state)

    def kept(params: Params, state: State) -> Params:
        return by_mask(params, leaves.map_states(lambda path, leaf, node: view(leaf, node) != 0, params, state))

    return Compressor(init, update, apply, describe, kept)
