"""Optimizers and pruned weights: they leave them alone, or decay them and let them come back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcomp.core import leaves
from jaxcomp.core.called import check_optimizer
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import kept as kept_by
from jaxcomp.core.paths import in_container, named_leaves, path_string
from jaxcomp.core.types import Compressor, Params, State

KeyPath = tuple[Any, ...]
ROW = ("all weights in a row",)
"""Stands for the path of a parameter where a state holds all of them, flattened."""


def kept(compressor: Compressor, params: Params, state: State) -> Params:
    """Finds which weights a recipe keeps: those that none of its members prunes, whatever another rounds or fills in.

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
    r"""Multiplies pruned weights by a factor :math:`f` (soft pruning); what grows again may come back.

    After the optimizer's step, with a recipe inside :func:`jaxcomp.straight_through` or without one in the loss.

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
        return jnp.where(mask, leaf, leaf * jnp.asarray(factor, leaf.dtype)) if leaves.is_inexact(leaf) else leaf

    return jax.tree.map(decayed, params, in_container(masks, params, "the masks"))


def masked_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer to leave pruned weights alone: it keeps no momentum of theirs, and no decay moves them.

    ``tx.update(grads, opt_state, params, masks=jc.prune.kept(recipe, params, state))``: where a mask is False the
    update is 0, and so is what the optimizer holds of that weight. A zero stays zero, and a weight that grows begins
    without a past. What it holds weight by weight is found by structure: a tree in its state, however deep, with the
    paths of the parameters (excluded ones may be missing), and in it the arrays with the shapes of theirs; or all
    weights in one row, as ``optax.flatten`` has them. All else is the optimizer's own: factored moments (adafactor),
    each number of which is of many weights, memories of several steps, rows of some parameters alone.

    Args:
      optimizer: any optax transformation, also one of parts (``optax.masked``, ``optax.partition``), or inside them.

    Returns:
      An optax transformation with the same state; where all is kept it updates as the optimizer does, bit for bit.

    Raises:
      ArgumentError: from its update, without ``masks``, or with masks that lack a parameter or have another shape.

    Example:
      >>> tx = masked_optimizer(optax.sgd(1.0, momentum=0.5))
      >>> params, masks = jnp.array([1.0, 0.0]), jnp.array([True, False])
      >>> updates, opt_state = tx.update(jnp.ones(2), tx.init(params), params, masks=masks)
      >>> updates.tolist(), opt_state[0].trace.tolist()
      ([-1.0, 0.0], [1.0, 0.0])

    Reference: Evci et al., Rigging the lottery, 2020.
    """
    check_optimizer(optimizer, "masked_optimizer(optimizer): optimizer")
    inner = optax.with_extra_args_support(optimizer)

    def update(
        updates: Params, state: Any, params: Params | None = None, *, masks: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        if masks is None:
            raise ArgumentError(
                "a masked optimizer needs the masks: call tx.update(grads, opt_state, params, masks=masks) with "
                "masks = jc.prune.kept(recipe, params, state)"
            )
        given = _masks_by_path(updates, masks)
        weights = {path: jnp.shape(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]}
        masked = jax.tree_util.tree_map_with_path(lambda path, leaf: _where(given[path], leaf), updates)
        new, state = inner.update(masked, state, params, **extra)
        owners = _copies_of_weights(state, weights)
        if () in weights:
            owners = _that_follow(inner.init, updates if params is None else params, owners)
        owners = _with_rows(inner.init, updates if params is None else params, state, owners)
        row = {ROW: jnp.concatenate([jnp.broadcast_to(given[p], shape).ravel() for p, shape in weights.items()])}
        return _mask(new, _copies_of_weights(new, weights), given), _mask(state, owners, given | row)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _copies_of_weights(tree: Any, weights: Mapping[KeyPath, tuple[int, ...]]) -> list[KeyPath | None]:
    """Finds which leaves of a tree hold a number for each weight of a parameter.

    A copy of the parameters is a subtree, the outermost possible, all of whose leaves have paths of parameters; leaves
    of it that have another shape than theirs are none of the weights'.

    Args:
      tree: an optimizer's state, or anything.
      weights: the parameters' shapes, by their paths as JAX has them.

    Returns:
      For each leaf of the tree the path of its parameter, or None.

    Example:
      >>> params = {"w": jnp.ones((2, 3))}
      >>> shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}
      >>> [path is not None for path in _copies_of_weights(optax.adam(0.1).init(params), shapes)]  # a count comes first
      [False, True, True]
    """
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    mixed = {path[:at] for path, _ in flat for at in range(len(path) + 1) if path[at:] not in weights}

    def owner(path: KeyPath, leaf: Any) -> KeyPath | None:
        at = next((at for at in range(len(path) + 1) if path[:at] not in mixed), None)
        own = None if at is None else path[at:]
        return own if own is not None and weights[own] == jnp.shape(leaf) else None

    return [owner(path, leaf) for path, leaf in flat]


def _that_follow(init: Callable[..., Any], params: Params, owners: list[Any]) -> list[Any]:
    """Owners whose leaf takes the shape of a parameter that is the whole tree, whatever that shape is.

    Such a parameter has no path by which to know its copies, and a memory of ten steps may be as long as ten weights.
    """
    larger = _grown(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(larger) if leaf.shape}
    grown = jax.tree.leaves(jax.eval_shape(init, larger))
    return [own if leaf.shape in shapes else None for own, leaf in zip(owners, grown, strict=True)]


def _with_rows(init: Callable[..., Any], params: Params, state: Any, owners: list[Any]) -> list[Any]:
    """Owners, with ``ROW`` for leaves that hold all weights one after the other: those that are as long and stay so."""
    size = lambda tree: (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)),)  # noqa: E731
    held = jax.tree.leaves(state)
    if not any(own is None and jnp.shape(leaf) == size(params) for leaf, own in zip(held, owners, strict=True)):
        return owners
    larger = _grown(params)
    pairs = zip(held, jax.tree.leaves(jax.eval_shape(init, larger)), owners, strict=True)
    is_row = lambda leaf, grown: jnp.shape(leaf) == size(params) and grown.shape == size(larger)  # noqa: E731
    return [ROW if own is None and is_row(leaf, grown) else own for leaf, grown, own in pairs]


def _grown(params: Params) -> Params:
    """Shapes like the parameters', every axis longer by one."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct([size + 1 for size in leaf.shape], leaf.dtype), params)


def _masks_by_path(updates: Params, masks: Params) -> dict[KeyPath, Any]:
    named, found = named_leaves(masks), {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]:
        name = path_string(path)
        if name not in named:
            raise ArgumentError(
                f"masks must have a leaf for every gradient, and {name!r} has none; theirs are {sorted(named)}: take "
                "jc.prune.kept(recipe, params, state)"
            )
        if jnp.shape(named[name]) not in ((), jnp.shape(leaf)):
            raise ArgumentError(
                f"the mask of {name!r} must have its shape, {jnp.shape(leaf)}, and has {jnp.shape(named[name])}"
            )
        found[path] = named[name]
    return found


def _mask(tree: Any, owners: list[KeyPath | None], masks: Mapping[KeyPath, Any]) -> Any:
    """The tree with 0 in place of pruned weights in its copies of them."""
    held, structure = jax.tree.flatten(tree)
    pairs = zip(held, owners, strict=True)
    return jax.tree.unflatten(structure, [leaf if own is None else _where(masks[own], leaf) for leaf, own in pairs])


def _where(mask: Any, leaf: Any) -> Any:
    inexact = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jnp.where(mask, leaf, jnp.zeros_like(leaf)) if inexact else leaf
