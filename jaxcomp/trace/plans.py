"""Plans: what is found in a function once for each shape of its inputs."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxcomp.core import meshes
from jaxcomp.core.leaves import is_inexact
from jaxcomp.core.programs import settings
from jaxcomp.core.types import Params
from jaxcomp.trace import compat
from jaxcomp.trace.ir import Program, all_nodes

Plan = TypeVar("Plan")


def shapes_of(params: Params) -> Params:
    """Replaces the leaves of a tree by their shapes, in its own containers."""
    return jax.eval_shape(lambda tree: tree, params)


class Plans(Generic[Plan]):
    """Plans by the structure, shapes and dtypes of inputs, the dtypes of parameters, and JAX's settings of traces.

    Under Explicit axes by layouts too: they are types there.

    A function that closes over values which some transformation traces is planned anew each time: they are gone once
    the trace ends.
    """

    def __init__(self, full: Params, make: Callable[[Params, tuple[Any, ...]], tuple[Program, Plan]]):
        """Takes the original's parameters, arrays or shapes, and ``parameters, inputs -> (the program, the plan)``."""
        self._full = shapes_of(full)
        self._make, self._known = make, dict[Any, Plan]()

    def __call__(self, params: Sequence[Any], inputs: tuple[Any, ...]) -> Plan:
        """The plan for inputs of these shapes.

        Args:
          params: what stands for each leaf of the original's parameters: an array laid out like it, or anything else
            for a leaf that every device holds in full.
          inputs: the other arguments.
        """
        layouts, dtypes = meshes.layouts(params, inputs), self._other_dtypes(params)
        key = _key(layouts, dtypes, inputs)
        if key in self._known:
            return self._known[key]
        full = self._full if dtypes is None else _cast(self._full, dtypes)
        program, plan = self._make(full if layouts is None else _laid_out(full, layouts), inputs)
        self._keep(key, program, plan)
        return plan

    def remember(self, params: Params, inputs: tuple[Any, ...], program: Program, plan: Plan) -> None:
        """Keeps a ``plan`` made already for a ``program``, if ``params`` and ``inputs`` are on no Explicit mesh."""
        if meshes.explicit_mesh((params, inputs)) is None and not meshes.mesh_is_set():
            self._keep(_key(None, None, inputs), program, plan)

    def _other_dtypes(self, params: Sequence[Any]) -> tuple[Any, ...] | None:
        """The dtypes of parameters that were cast, as bfloat16 trains; None where none was.

        What is not needed any more, None, goes with the others of its dtype.
        """
        own = jax.tree.leaves(self._full)
        pairs = list(zip(params, own, strict=True))
        others = {old.dtype: new.dtype for new, old in pairs if is_inexact(new) and is_inexact(old)}
        cast = tuple(
            others.get(old.dtype, old.dtype) if new is None
            else new.dtype if is_inexact(new) and is_inexact(old) else old.dtype
            for new, old in pairs
        )  # fmt: skip
        return None if all(dtype == old.dtype for dtype, old in zip(cast, own, strict=True)) else cast

    def _keep(self, key: Any, program: Program, plan: Plan) -> None:
        if not _holds_tracers(program):
            self._known[key] = plan


def _key(layouts: Any, dtypes: Any, inputs: tuple[Any, ...]) -> Any:
    leaves, tree = jax.tree.flatten(inputs)
    return tree, layouts, dtypes, settings(), tuple(_type(x) for x in leaves)


def _type(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.shape, leaf.dtype, bool(leaf.weak_type), None
    layout = jax.typeof(leaf).sharding if meshes.is_explicit(leaf) else None
    return np.shape(leaf), jax.dtypes.result_type(leaf), bool(getattr(jax.typeof(leaf), "weak_type", False)), layout


def _cast(full: Params, dtypes: Sequence[Any]) -> Params:
    leaves, tree = jax.tree.flatten(full)
    pairs = zip(leaves, dtypes, strict=True)
    return jax.tree.unflatten(
        tree, [x if x.dtype == dtype else jax.ShapeDtypeStruct(x.shape, dtype) for x, dtype in pairs]
    )


def _laid_out(full: Params, layouts: Sequence[Any]) -> Params:
    leaves, tree = jax.tree.flatten(full)
    pairs = zip(leaves, layouts, strict=True)
    return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout) for x, layout in pairs])


def _holds_tracers(program: Program) -> bool:
    values = (value for node in all_nodes(program.frame) for value in node.ins)
    return any(compat.is_tracer(value.const) for value in values)
