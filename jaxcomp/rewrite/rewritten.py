"""Plans: a new function analyses each shape of its inputs once, and runs what it found."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxcomp.core import meshes
from jaxcomp.core.arrays import as_array
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Program, all_nodes

Plan = TypeVar("Plan")


class Plans(Generic[Plan]):
    """Plans by the structure, shapes and dtypes of inputs, under Explicit axes by layouts too: they are types there.

    A function that closes over values which some transformation traces is planned anew each time: they are gone once
    the trace ends.
    """

    def __init__(self, full: Params, make: Callable[[Params, tuple[Any, ...]], tuple[Program, Plan]]):
        """Takes the original's parameters, arrays or shapes, and ``parameters, inputs -> (the program, the plan)``."""
        self._full = jax.eval_shape(lambda tree: tree, full)
        self._make, self._known = make, dict[Any, Plan]()

    def __call__(self, params: Sequence[Any], inputs: tuple[Any, ...]) -> Plan:
        """The plan for inputs of these shapes.

        Args:
          params: what stands for each leaf of the original's parameters: an array laid out like it, or anything else
            for a leaf that every device holds in full.
          inputs: the other arguments.
        """
        leaves, tree = jax.tree.flatten(inputs)
        layouts = meshes.layouts(params, inputs)
        key = tree, layouts, tuple((np.shape(x), jax.dtypes.result_type(x), _is_weak(x), _layout(x)) for x in leaves)
        if key in self._known:
            return self._known[key]
        program, plan = self._make(self._full if layouts is None else _laid_out(self._full, layouts), inputs)
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


def _laid_out(full: Params, layouts: Sequence[Any]) -> Params:
    leaves, tree = jax.tree.flatten(full)
    pairs = zip(leaves, layouts, strict=True)
    return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout) for x, layout in pairs])


def _layout(leaf: Any) -> Any:
    return jax.typeof(leaf).sharding if meshes.is_explicit(leaf) else None


def _is_weak(leaf: Any) -> bool:
    return bool(getattr(jax.typeof(leaf), "weak_type", False))


def _holds_tracers(program: Program) -> bool:
    values = (value for node in all_nodes(program.frame) for value in node.ins)
    return any(compat.is_tracer(value.const) for value in values)
