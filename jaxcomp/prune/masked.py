"""What optimisers do to pruned weights: nothing, or a decay that lets them come back."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcomp.core import leaves
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import kept as kept_by
from jaxcomp.core.types import Compressor, Params, State


def kept(compressor: Compressor, params: Params, state: State) -> Params:
    """Which weights a recipe keeps: those that none of its members prunes, whatever another rounds or fills in.

    Args:
      compressor: any: pruners say what they keep, combinators what their members do; of one of your own without a
        ``kept``, where its view is not zero of ones or of very large numbers.
      params: the parameters, on which learned thresholds depend.
      state: its state.

    Returns:
      Boolean masks, one a leaf; all True for leaves that are no floating-point tensors.

    Example:
      >>> import jaxcomp as jc
      >>> recipe = jc.chain(jc.prune.magnitude(0.5), jc.quant.fake(2))
      >>> params = {"w": jnp.array([1.0, -4.0]), "count": jnp.array(3)}
      >>> {path: mask.tolist() for path, mask in kept(recipe, params, recipe.init(params)).items()}
      {'count': True, 'w': [False, True]}
    """
    return kept_by(compressor, params, state)


def decay_pruned(params: Params, masks: Params, factor: float) -> Params:
    r"""Soft pruning: :math:`w \mapsto w` where kept, :math:`f w` elsewhere; what grows again may come back.

    After the optimiser's step, with a recipe inside :func:`jaxcomp.straight_through` or without one in the loss.

    Args:
      params: the parameters.
      masks: of :func:`kept`.
      factor: f in [0, 1]; 0 is projection.

    Returns:
      Parameters of the same dtypes; leaves that are no floating-point tensors as they were.

    Raises:
      ArgumentError: for a factor outside [0, 1].

    Example:
      >>> decay_pruned(jnp.array([4.0, 1.0]), jnp.array([True, False]), 0.5).tolist()
      [4.0, 0.5]

    Reference: He et al., Soft filter pruning for accelerating deep convolutional neural networks, 2018 (f = 0); Cai et
    al., Softer pruning, incremental regularization, 2020.
    """
    if not 0 <= factor <= 1:
        raise ArgumentError(f"factor must lie in [0, 1], got {factor!r}")

    def decayed(leaf: Any, mask: Any) -> Any:
        return jnp.where(mask, leaf, leaf * jnp.asarray(factor, leaf.dtype)) if leaves.is_real(leaf) else leaf

    return jax.tree.map(decayed, params, masks)


def masked_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """An optimiser that leaves pruned weights alone: no momentum of theirs is kept, no decay moves them.

    ``tx.update(grads, opt_state, params, masks=jc.prune.kept(recipe, params, state))``: where a mask is False the
    update is 0, and so is whatever the optimiser holds in the shape of the parameters. A zero stays zero, and a weight
    that grows begins without a past.

    Args:
      optimizer: any optax transformation.

    Returns:
      An optax transformation with the same state.

    Raises:
      ArgumentError: from its update, when called without ``masks``.

    Example:
      >>> tx = masked_optimizer(optax.sgd(1.0, momentum=0.5))
      >>> params, masks = jnp.array([1.0, 0.0]), jnp.array([True, False])
      >>> updates, opt_state = tx.update(jnp.ones(2), tx.init(params), params, masks=masks)
      >>> updates.tolist(), opt_state[0].trace.tolist()
      ([-1.0, 0.0], [1.0, 0.0])

    Reference: Evci et al., Rigging the lottery, 2020.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(
        updates: Params, state: Any, params: Params | None = None, *, masks: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        if masks is None:
            raise ArgumentError(
                "a masked optimiser needs the masks: call tx.update(grads, opt_state, params, masks=masks) with "
                "masks = jc.prune.kept(recipe, params, state)"
            )
        updates, state = inner.update(jax.tree.map(_where, updates, masks), state, params, **extra)
        state = optax.tree_utils.tree_map_params(optimizer, _where, state, masks)
        return jax.tree.map(_where, updates, masks), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _where(leaf: Any, mask: Any) -> Any:
    return jnp.where(mask, leaf, jnp.zeros_like(leaf)) if leaves.is_real(leaf) else leaf
