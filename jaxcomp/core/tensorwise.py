"""Compressors that treat each tensor by itself: its own state, errors with its path, and what is said of it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.kept import everything
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.core.programs import together
from jaxcomp.core.types import Compressor, Note, Params, State, Step


def tensorwise(
    fit: Callable[..., Any],
    view: Callable[[Array, Any], Array],
    note: Callable[[Any], Note],
    refit: Callable[[Array, Any], Any] | None = None,
    settle: Callable[[Array, Any], Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Compressor:
    """Makes a compressor that treats each floating-point tensor by itself.

    Args:
      fit: ``tensor -> its state``.
      view: ``(tensor, its state) -> tensor``.
      note: ``its state -> note``; with ``settle``: what that returns ``-> note``.
      refit: ``(tensor, its state) -> its state``; None: fit it anew.
      beside: ``{path: array}`` of each tensor's shape, which ``fit`` is given besides; None: it is given none.
      settle: ``(tensor, its state) -> arrays`` that ``view`` goes by, for the note; None: the state itself.

    Raises:
      ArgumentError: from its functions, with the path of the tensor; for ``beside`` of another shape.
    """

    def at(path: Any, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except ArgumentError as error:
            raise ArgumentError(f"{path_string(path) or 'the parameter'}: {error}") from None

    def own(path: Any, leaf: Any) -> tuple[Any, ...]:
        if beside is None:
            return (leaf,)
        found = beside.get(path_string(path))
        if found is None or jnp.shape(found) != leaf.shape:
            known = f"has none; there are {', '.join(map(repr, sorted(beside)[:6]))}"
            has = known if found is None else f"has that of shape {jnp.shape(found)}"
            raise ArgumentError(f"{path_string(path)!r}: needs importance of shape {leaf.shape}, and {has}")
        return leaf, found

    def init(params: Params) -> State:
        given: list[tuple[Any, ...]] = []
        leaves.map_real(lambda path, leaf: given.append(own(path, leaf)), params)
        try:
            found, finite = together(fit)(given)
        except ArgumentError:
            finite = False
        if finite:
            states = iter(found)
            return leaves.map_real(lambda path, leaf: next(states), params)
        return leaves.map_real(lambda path, leaf: at(path, fit, *own(path, leaf)), params)  # which names what is wrong

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        del step, extra
        if refit is None:
            return init(params)
        return leaves.map_states(lambda path, leaf, node: at(path, refit, leaf, node), params, state)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del step
        named, weights = leaves.named_states(params, state), named_leaves(params)
        known = {path: node for path, node in named.items() if not leaves.left_out(node)}
        if settle is not None:
            settled, _ = together(settle, check=False)([(weights[path], node) for path, node in known.items()])
            known = dict(zip(known, settled, strict=True))
        return {path: note(known[path]) if path in known else Note(skipped=leaves.NOT_REAL) for path in named}

    return Compressor(init, update, lambda params, state: leaves.map_view(view, params, state), describe, everything)
