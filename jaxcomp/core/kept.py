"""Which weights a compressor keeps, whatever their values: the rest of its view is zero for good."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.core import leaves
from jaxcomp.core.types import Compressor, Params, State


def kept(compressor: Compressor, params: Params, state: State) -> Params:
    """Finds which weights a view keeps whatever their values, as it says itself or else by probing it.

    Args:
      compressor: of the view.
      params: parameters.
      state: of the compressor.

    Returns:
      A tree of booleans of the leaves' shapes; False where the view is 0 whatever the weight.
    """
    return _probed(compressor, params, state) if compressor.kept is None else compressor.kept(params, state)


def everything(params: Params, state: State = None) -> Params:
    """Returns masks that are True throughout ``params``, for a view that prunes nothing; ``state`` is not read."""
    del state
    return jax.tree.map(_true, params)


def by_mask(params: Params, masks: State) -> Params:
    """Completes the masks of a pruner.

    Args:
      params: parameters.
      masks: a mask for each leaf that is pruned, ``optax.MaskedNode()`` for the others.

    Returns:
      A mask for each leaf, True for those that the pruner leaves out.

    Example:
      >>> import optax
      >>> params, masks = {"b": jnp.ones(1), "w": jnp.ones(2)}, {"b": optax.MaskedNode(), "w": jnp.array([True, False])}
      >>> {path: mask.tolist() for path, mask in by_mask(params, masks).items()}
      {'b': [True], 'w': [True, False]}
    """
    leaves.check_alike(params, masks)
    return jax.tree.map(lambda leaf, mask: _true(leaf) if leaves.left_out(mask) else mask, params, masks)


def both(some: Params, others: Params) -> Params:
    """Intersects the masks of two views: a weight is kept if both ``some`` and ``others`` keep it."""
    return jax.tree.map(lambda a, b: a & b, some, others)


def _probed(compressor: Compressor, params: Params, state: State) -> Params:
    """Ones show masks; a grid may round them to 0, but not the largest of all numbers."""

    def view(is_large: bool) -> Params:
        return compressor.apply(jax.tree.map(lambda leaf: _filled(leaf, is_large), params), state)

    def nonzero(leaf: Any, small: Any, large: Any) -> Any:
        return (small != 0) | (large != 0) if leaves.is_real(leaf) else _true(leaf)

    return jax.tree.map(nonzero, params, view(False), view(True))


def _filled(leaf: Any, large: bool) -> Any:
    if not leaves.is_real(leaf):
        return leaf
    return jnp.full_like(leaf, jnp.finfo(leaf.dtype).max / 2) if large else jnp.ones_like(leaf)


def _true(leaf: Any) -> Any:
    return jnp.ones_like(leaf, dtype=bool) if leaves.is_real(leaf) else jnp.ones(jnp.shape(leaf), bool)
