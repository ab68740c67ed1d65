"""Once: within one call a function is traced once, and its readers are looked up once, however many rewrites ask."""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_FOUND: ContextVar[dict[Any, Any] | None] = ContextVar("found", default=None)


def once(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Lets a function that calls several rewrites, and everything that it calls, find again what was traced.

    A function is traced to the same program as long as the call lasts; after it nothing is held.

    Example:
      >>> from jaxcomp.trace.ir import trace
      >>> once(lambda f: trace(f, 1.0) is trace(f, 1.0))(abs), trace(abs, 1.0) is trace(abs, 1.0)
      (True, False)
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **named: Arguments.kwargs) -> Result:
        if _FOUND.get() is not None:
            return function(*args, **named)
        token = _FOUND.set({})
        try:
            return function(*args, **named)
        finally:
            _FOUND.reset(token)

    return call


def found(of: Any, args: Any, make: Callable[[], Result]) -> Result:
    """Makes what depends on an object and on types of arrays, or finds it again within a call of :func:`once`.

    Args:
      of: a function, or a program's body.
      args: trees of arrays and shapes.
      make: makes it.
    """
    known = _FOUND.get()
    if known is None:
        return make()
    leaves, tree = jax.tree.flatten(args)
    try:
        types = tuple(x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x) for x in leaves)
        key = id(of), tree, types, jax.sharding.get_abstract_mesh()
        is_known = key in known
    except (TypeError, ValueError):  # what is no array: to make it says so
        return make()
    if not is_known:
        known[key] = of, make()  # it is held, so that its number stays its own
    return known[key][1]
