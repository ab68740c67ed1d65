"""The optax adaptor: a compressor for a training loop that one cannot, or would rather not, change."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.learned import learned
from jaxcomp.core.types import Compressor, Params, State


class CompressState(NamedTuple):
    """State of :func:`compress`.

    Attributes:
      step: int32, the number of updates made: the loop passes none to optax, so the adaptor counts.
      params: the parameters behind the view, which the inner optimiser trains.
      compressor: the compressor's state.
      inner: the inner optimiser's state.
    """

    step: jax.Array
    params: Params
    compressor: State
    inner: Any


def compress(optimizer: optax.GradientTransformation, compressor: Compressor) -> optax.GradientTransformationExtraArgs:
    """Trains what lies behind a compressor's view, while the loop holds and evaluates the view.

    The loop's gradients, taken at the view, are pulled back through ``compressor.apply`` to the parameters behind
    it, which the inner optimiser updates; the loop's parameters become the new view. So the loop computes what it
    would with ``compressor.apply`` inside its loss. The update that optax adds is ``view - params`` and rounds:
    zeros come out exact, other values within a unit in the last place of the larger of old and new; :func:`finalize`
    gives them exactly. The compressor itself is given the gradients at the view: they are not 0 where the view is. In a
    chain it comes last: what followed would change the view.

    Args:
      optimizer: any optax transformation.
      compressor: any compressor.

    Returns:
      An optax transformation. Its first update turns dense parameters into the view.

    Raises:
      ArgumentError: (from its init) for a recipe with learned values; (from its update) without ``params``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jaxcomp as jc
      >>> tx = compress(optax.sgd(0.1), jc.prune.magnitude(0.5))
      >>> params = {"w": jnp.array([1.0, -2.0])}
      >>> opt_state = tx.init(params)
      >>> updates, opt_state = tx.update({"w": jnp.array([0.0, -1.0])}, opt_state, params)
      >>> optax.apply_updates(params, updates)["w"].round(2).tolist()
      [0.0, -1.899999976158142]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> CompressState:
        state = compressor.init(params)
        if learned(state):
            raise ArgumentError(
                f"the recipe learns values ({', '.join(learned(state))}), which a loop that knows parameters alone "
                "cannot train: differentiate with respect to (params, jc.learned(state)), as its help shows"
            )
        behind = jax.tree.map(jnp.copy, params)  # a loop that donates its parameters must not donate these
        return CompressState(jnp.zeros((), jnp.int32), behind, state, optimizer.init(params))

    def update(
        grads: Params, state: CompressState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, CompressState]:
        if params is None:
            raise ArgumentError("jaxcomp.optim.compress needs the parameters: call tx.update(grads, opt_state, params)")
        pulled = _pulled_back(lambda behind: compressor.apply(behind, state.compressor), state.params, grads)
        updates, inner = optimizer.update(pulled, state.inner, state.params, **extra)
        behind = optax.apply_updates(state.params, updates)
        step = state.step + 1
        own = compressor.update(behind, state.compressor, step, grads=grads)
        view = compressor.apply(behind, own)
        change = jax.tree.map(lambda new, old: new ^ old if new.dtype == bool else new - old, view, params)
        return change, CompressState(step, behind, own, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _pulled_back(apply: Callable[[Params], Params], params: Params, grads: Params) -> Params:
    """Gradients at the parameters, of those at their view; those of leaves that have none come back as they are."""
    leaves, tree = jax.tree.flatten(params)
    given, slopes = list(leaves), tree.flatten_up_to(grads)  # type: ignore[attr-defined]
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    def view(some: list[Any]) -> list[Any]:
        for i, leaf in zip(places, some, strict=True):
            given[i] = leaf
        seen = jax.tree.leaves(apply(jax.tree.unflatten(tree, given)))
        return [seen[i] for i in places]

    _, pull_back = jax.vjp(view, [leaves[i] for i in places])
    (pulled,) = pull_back([slopes[i] for i in places])
    for i, slope in zip(places, pulled, strict=True):
        slopes[i] = slope
    return jax.tree.unflatten(tree, slopes)


def finalize(opt_state: Any, compressor: Compressor) -> Params:
    """The exact view that a loop under :func:`compress` has reached.

    Args:
      opt_state: the loop's optimiser state, which may hold the adaptor's anywhere inside (``optax.chain``).
      compressor: the one that :func:`compress` was given.

    Returns:
      The compressed parameters, in arrays of their own: the loop may go on and donate its state.

    Raises:
      ArgumentError: if the state holds no adaptor, or more than one.

    Example:
      >>> import jax.numpy as jnp, optax, jaxcomp as jc
      >>> prune = jc.prune.magnitude(0.5)
      >>> opt_state = compress(optax.sgd(0.1), prune).init({"w": jnp.array([1.0, -2.0])})
      >>> finalize(opt_state, prune)["w"].tolist()
      [0.0, -2.0]
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, CompressState))
    found = [node for node in nodes if isinstance(node, CompressState)]
    if len(found) != 1:
        raise ArgumentError(f"the optimiser state must hold one state of jaxcomp.optim.compress, it holds {len(found)}")
    return jax.tree.map(jnp.copy, compressor.apply(found[0].params, found[0].compressor))
