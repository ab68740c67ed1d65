"""Calls of the user's function: what is none is refused, and what goes wrong in one says with what it was called."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.core.errors import ArgumentError, CallError, JaxcompError
from jaxcomp.core.paths import PartKey, path_string


def check_function(function: Any, form: str = "apply_fn(params, *inputs)") -> None:
    """Refuses what is no plain function: modules, classes, and pairs of functions.

    Args:
      function: the argument.
      form: its name and how it is called.

    Raises:
      CallError: with what to give instead.

    Example:
      >>> check_function(3.0)
      Traceback (most recent call last):
      ...
      jaxcomp.core.errors.CallError: apply_fn must be a function, called as apply_fn(params, *inputs); got float
    """
    instead = ""
    if _is_a("flax.linen", function):
        instead = ": a Linen module is not one, its method is: give module.apply"
    elif _is_a("flax.nnx", function):
        instead = (
            ": an nnx.Module holds its parameters: give lambda params, x: nnx.merge(graphdef, params)(x), with "
            "graphdef, params = nnx.split(module)"
        )
    elif isinstance(function, type):
        instead = ", not a class: make one of it first"
    elif callable(function):
        return
    elif callable(getattr(function, "apply", None)):
        instead = ": give its method .apply"
    raise CallError(f"{form.partition('(')[0]} must be a function, called as {form}; got {_named(function)}{instead}")


@contextlib.contextmanager
def explained(form: str, params: Any, inputs: Sequence[Any]) -> Iterator[None]:
    """Says of whatever a function of the user raises with which arguments it was called.

    Args:
      form: the function's name and how it is called.
      params, inputs: the arguments of the call.

    Raises:
      CallError: in place of another error, which is its cause; the library's own errors and floating-point errors
        (``jax_debug_nans``) are left as they are.
    """
    try:
        yield
    except (JaxcompError, ArithmeticError, MemoryError):
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise CallError(
            f"{form} failed with {type(error).__name__}: {text[:300]}\nIt was called with params = {described(params)}"
            f"; inputs = {', '.join(map(described, inputs)) or 'none'}.{_hint(params, inputs)}"
        ) from error


def unjitted(function: Any) -> Any:
    """Returns a function without the ``jax.jit`` around it.

    Example:
      >>> unjitted(jax.jit(abs)) is abs, unjitted(abs) is abs
      (True, True)
    """
    while isinstance(function, _jitted()):
        function = getattr(function, "__wrapped__")  # noqa: B009
    return function


@functools.cache
def _jitted() -> type:
    return type(jax.jit(lambda: None))


def described(tree: Any) -> str:
    """Describes a tree in a few words, for errors: its type, and the types and shapes of its first leaves.

    Example:
      >>> described({"w": np.ones((3, 2), np.float32), "b": 1.0})
      'dict {b: float, w: float32[3,2]}'
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if jax.tree_util.treedef_is_leaf(treedef):
        return _kind(tree)
    shown = [f"{path_string(path)}: {_kind(leaf)}" for path, leaf in leaves[:4]]
    return f"{_named(tree)} {{{', '.join(shown)}{', ...' if len(leaves) > 4 else ''}}}"


def arguments(function: Any, given: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Splits the arguments of a rewritten function into parameters and inputs; some came by the names of the original.

    Args:
      function: the original.
      given: positional arguments.
      named: keyword arguments.

    Returns:
      ``(params, inputs)``. Arguments between that were not given have the original's defaults.

    Raises:
      ArgumentError: for a name that is none of the function's, one that came twice, one that is missing.

    Example:
      >>> arguments(lambda p, x, scale=1.0, shift=0.0: None, [{"w": 3}], {"x": 4, "shift": 5})
      ({'w': 3}, (4, 1.0, 5))
    """
    filled = list(given)
    if named:
        filled = _in_order(function, filled, dict(named))
    if not filled:
        raise ArgumentError("the function needs its parameters, then its inputs; it was called with nothing")
    return filled[0], tuple(filled[1:])


def _in_order(function: Any, filled: list[Any], named: dict[str, Any]) -> list[Any]:
    own = _places(function)
    names = [one.name for one in own]
    if "params" in named and "params" not in names and names:
        named[names[0]] = named.pop("params")
    for name in named:
        if name not in names:
            raise ArgumentError(
                f"the function takes the inputs of the one that it was made of, in their order ({', '.join(names)}), "
                f"and got {name}=: give inputs by place, and bind what is none before rewriting, as in "
                "lambda params, x: model.apply(params, x, train=False)"
            )
        if names.index(name) < len(filled):
            raise ArgumentError(f"the function got its argument {name!r} twice, by place and by name")
    for one in own[len(filled) : 1 + max(names.index(name) for name in named)]:
        if one.name not in named and one.default is one.empty:
            raise ArgumentError(f"the function's argument {one.name!r} is missing")
        filled.append(named.get(one.name, one.default))
    return filled


def _places(function: Any) -> list[inspect.Parameter]:
    try:
        own = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one for one in own if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]


def _is_a(module: str, thing: Any) -> bool:
    """Whether a thing is an object of a library's ``Module``, which is looked for only if it was imported."""
    known = getattr(sys.modules.get(module), "Module", None)
    return isinstance(known, type) and isinstance(thing, known)


def _named(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _kind(leaf: Any) -> str:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        return repr(leaf)[:40] if isinstance(leaf, str) else _named(leaf)
    return f"{dtype}[{','.join(map(str, shape))}]"


def _hint(params: Any, inputs: Sequence[Any]) -> str:
    """Says what is likely wrong with arguments, in a sentence."""
    if _is_a("flax.linen", params):
        return " A Linen module holds no parameters: give the variables that module.init returned."
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    if any(isinstance(key, PartKey) for path in paths for key in path[-1:]):
        return (
            " These parameters hold packed weights: give them with the function that the rewrite returned beside them, "
            "or give jaxcomp.rewrite.densify(params)."
        )
    if any(isinstance(leaf, bool | str) for leaf in jax.tree.leaves(inputs)):
        return " Flags and names are no inputs: bind them first, as in lambda params, x: model.apply(params, x, False)."
    if not inputs:
        return " Give its other arguments too, an example of them or their shapes, after the parameters."
    bare = jax.tree_util.treedef_is_leaf(jax.tree.structure(params))
    trees = [each for each in inputs if isinstance(each, Mapping) or _is_a("flax.nnx", each)]
    if bare and np.ndim(params) and any(not jax.tree_util.treedef_is_leaf(jax.tree.structure(each)) for each in inputs):
        return " Parameters come first, then the inputs: are they swapped?"
    if any(isinstance(each, list | tuple) for each in inputs):
        return " A list is one input: several are given one by one, and of a batch as a tuple, or chosen with select=."
    return " A dict is one input: choose of it with select=." if trees else ""
