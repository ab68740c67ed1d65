"""The ranges of what layers hand on, of the function itself, run on data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcomp.core.errors import ArgumentError
from jaxcomp.export.to_onnx.convert import computes
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Frame, Program, Value, trace
from jaxcomp.trace.packed.marked import marking


class _Watch(Interpreter):
    """Runs a program, and notes the range of some values of its outermost body."""

    def __init__(self, values: Sequence[Value]):
        super().__init__()
        self._values = values

    def held(self, frame: Frame) -> Iterable[Value]:
        return self._values if self._values else ()

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        self.seen = {i: (jnp.min(read(value)), jnp.max(read(value))) for i, value in enumerate(self._values)}


def observed(
    fn: Callable[..., Any], params: Any, batches: Iterable[tuple[Any, ...]], program: Program, values: Sequence[Value]
) -> list[tuple[float, float]]:
    """The least and the greatest number of some values of a program on batches.

    Args:
      fn, params: the function.
      batches: tuples of its other arguments, of one shape.
      program: its trace, perhaps for sizes that have names.
      values: results of nodes of its outermost body that compute numbers.
    """
    given = list(batches)
    with marking():
        own = trace(fn, params, *given[0])
    nodes, alike = ([node for node in each.frame.nodes if computes(node)] for each in (program, own))
    if [node.op for node in nodes] != [node.op for node in alike]:
        raise ArgumentError(
            "the function computes otherwise for the batches of hand_on= than for the example: give it their shape, or "
            "leave shapes= out"
        )
    places = {out: (i, j) for i, node in enumerate(nodes) for j, out in enumerate(node.outs)}
    watched = [alike[i].outs[j] for i, j in map(places.__getitem__, values)]

    @jax.jit
    def ranges(leaves: list[Any], inputs: tuple[Any, ...]) -> Any:
        run = _Watch(watched)
        run.body(own.frame, [*leaves, *jax.tree.leaves(inputs)])
        return [run.seen[i] for i in range(len(watched))]

    seen = [jax.device_get(ranges(jax.tree.leaves(params), batch)) for batch in given]
    return [
        (float(min(low for low, _ in each)), float(max(high for _, high in each))) for each in zip(*seen, strict=True)
    ]
