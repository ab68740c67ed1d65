"""Learned values of a compressor: thresholds, scales, and whatever else a user's own optimizer trains."""

from typing import Any

import jax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string
from jaxcomp.core.types import Learned, State


def learned(state: State) -> dict[str, Any]:
    """Returns the learned values in a compressor's state, for gradients and an optimizer of their own.

    ``update`` leaves them alone; :func:`with_learned` puts them back. One step trains the parameters and these.

    Args:
      state: of any compressor, combinators included.

    Returns:
      ``{path in the state: array}``; empty if the compressor learns nothing.

    Example:
      >>> import jax.numpy as jnp, optax, jaxcomp as jc
      >>> recipe = jc.partition([(".*kernel", jc.prune.learned_threshold(-1.0))])
      >>> params = {"kernel": jnp.array([[0.1, 2.0], [-0.5, 0.2]])}
      >>> state, tx = recipe.init(params), optax.sgd(0.1)
      >>> both = params, learned(state)
      >>> opt_state = tx.init(both)
      >>> def loss_fn(both):
      ...     params, values = both
      ...     view = recipe.apply(params, with_learned(state, values))
      ...     return jnp.sum(view["kernel"] ** 2)
      >>> updates, opt_state = tx.update(jax.grad(loss_fn)(both), opt_state, both)
      >>> params, values = optax.apply_updates(both, updates)
      >>> state = recipe.update(params, with_learned(state, values), 1)
      >>> sorted(learned(state)), float(values["0/kernel"]) > -1.0
      (['0/kernel'], True)
    """
    nodes = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_learned)[0]
    return {path_string(path): node.value for path, node in nodes if _is_learned(node)}


def with_learned(state: State, values: dict[str, Any]) -> State:
    """Replaces the learned values of a state, named as by :func:`learned`.

    Args:
      state: of a compressor.
      values: ``{path in the state: array}``, one for each learned value.

    Returns:
      A state of the same structure.

    Raises:
      ArgumentError: if a path is missing or unknown.

    Example:
      >>> state = {"w": Learned(1.0), "mask": True}
      >>> with_learned(state, {"w": 2.0})
      {'mask': True, 'w': Learned(value=2.0)}
    """
    known = learned(state)
    wrong = sorted(known.keys() ^ values.keys())
    if wrong:
        raise ArgumentError(
            f"values must hold what jc.learned(state) does, {', '.join(known) or 'nothing'}; {wrong[0]!r} is "
            f"{'missing' if wrong[0] in known else 'not in the state'}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, node: Learned(values[path_string(path)]) if _is_learned(node) else node, state, is_leaf=_is_learned
    )


def _is_learned(node: Any) -> bool:
    return isinstance(node, Learned)
