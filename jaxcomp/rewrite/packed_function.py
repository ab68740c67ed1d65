"""Functions of parameters some of which are packed."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from jaxcomp.core.calls import arguments
from jaxcomp.core.meshes import replicated
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.types import Params
from jaxcomp.rewrite.rewritten import Plans, checked_leaves
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.packed.leaf import Packed
from jaxcomp.trace.packed.run import PackedInterpreter

Prepared = TypeVar("Prepared")


class PackedFunction:
    """A function that computes with packed leaves; traces the original once for each shape of its inputs."""

    made: tuple[str, str] = ("packed", "the rewrite")
    """What it is called, and by what it was made, in errors."""

    def __init__(self, apply_fn: Callable[..., Any], params: Params, packed: Mapping[str, Packed]):
        """Takes the function, its parameters as they were, and the packed leaves, arrays or shapes, by path."""
        self.__wrapped__ = apply_fn
        self._full = jax.eval_shape(lambda tree: tree, params)
        whole = replace_leaves(self._full, dict(packed))
        self._small = {path: leaf.shape for path, leaf in named_leaves(whole).items()}
        self._structure = jax.tree.structure(whole)
        self._plans = programs(apply_fn, params, self.prepared)

    def __call__(self, *args: Any, **named: Any) -> Any:
        params, inputs = arguments(self.__wrapped__, args, named)
        given = checked_leaves(params, self._small, *self.made)
        leaves: list[Any] = []
        packed = jax.tree.unflatten(self._structure, given)
        jax.tree.map(lambda _, leaf: leaves.append(leaf), self._full, packed)  # a packed leaf is one
        program, prepared = self._plans(leaves, inputs)
        return run_packed(program, self.interpreter(prepared), [self.opened(leaf) for leaf in leaves], inputs)

    def prepared(self, program: Program) -> Any:
        """What is to be known of a program to run it, found once for each shape of its inputs."""
        return None

    def interpreter(self, prepared: Any) -> PackedInterpreter:
        """What runs the function."""
        return PackedInterpreter()

    def opened(self, leaf: Any) -> Any:
        """A leaf as the interpreter takes it."""
        return leaf


def programs(
    apply_fn: Callable[..., Any], params: Params, prepare: Callable[[Program], Prepared]
) -> Plans[tuple[Program, Prepared]]:
    """A function as it is traced, and what is prepared of that, once for each shape of its inputs."""

    def traced(full: Params, inputs: tuple[Any, ...]) -> tuple[Program, tuple[Program, Prepared]]:
        program = trace(apply_fn, full, *inputs)
        return program, (program, prepare(program))

    return Plans(params, traced)


def run_packed(program: Program, run: PackedInterpreter, leaves: list[Any], inputs: tuple[Any, ...]) -> Any:
    """Runs a program on the leaves of its parameters, some of them packed, and on its other arguments.

    Under Explicit axes every device holds the packed ones in full: what they stand for was traced so.
    """
    leaves = [jax.tree.map(replicated, leaf) if isinstance(leaf, Packed) else leaf for leaf in leaves]
    outs = run.body(program.frame, [*leaves, *jax.tree.leaves(inputs)])
    return jax.tree.unflatten(program.out_tree, [run.dense(out, None) for out in outs])
