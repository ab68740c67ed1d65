"""Plans: a new function analyses each shape of its inputs once, and runs what it found."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxcomp.core.arrays import as_array
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Program, all_nodes

Plan = TypeVar("Plan")


class Plans(Generic[Plan]):
    """Plans by the structure, shapes and dtypes of inputs.

    A function that closes over values which some transformation traces is planned anew each time: they are gone once
    the trace ends.
    """

    def __init__(self, make: Callable[[tuple[Any, ...]], tuple[Program, Plan]]):
        """Takes ``inputs -> (the traced function, the plan)``."""
        self._make, self._known = make, dict[Any, Plan]()

    def __call__(self, inputs: tuple[Any, ...]) -> Plan:
        """The plan for inputs of these shapes."""
        leaves, tree = jax.tree.flatten(inputs)
        key = tree, tuple((np.shape(leaf), jax.dtypes.result_type(leaf), _is_weak(leaf)) for leaf in leaves)
        if key in self._known:
            return self._known[key]
        program, plan = self._make(inputs)
        if not _holds_tracers(program):
            self._known[key] = plan
        return plan


def checked_leaves(params: Any, wanted: dict[str, tuple[int, ...]], function: str, maker: str) -> list[Any]:
    """The leaves of a new function's parameters, in the order of ``wanted``, whatever tree of those paths they come in.

    Raises:
      ArgumentError: if they are not those that the function was made with; names the first leaf that differs.
    """
    named = named_leaves(params)
    given = {path: np.shape(leaf) for path, leaf in named.items()}
    if given == wanted:
        return [as_array((jax.tree_util.DictKey(path),), named[path]) for path in wanted]
    path = next(path for path in sorted(given | wanted) if given.get(path) != wanted.get(path))
    needed, came = wanted.get(path), given.get(path)
    raise ArgumentError(
        f"the {function} function needs the parameters that {maker} returned with it: at {path!r} it needs "
        f"{'no parameter' if needed is None else f'shape {needed}'} and got {'none' if came is None else came}"
    )


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(jax.typeof(leaf), "weak_type", False))


def _holds_tracers(program: Program) -> bool:
    values = (value for node in all_nodes(program.frame) for value in node.ins)
    return any(compat.is_tracer(value.const) for value in values)
