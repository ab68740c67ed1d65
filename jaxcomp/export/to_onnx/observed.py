"""The ranges of what layers hand on, of the function itself, run on data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.export.ranges import ranges_of
from jaxcomp.export.to_onnx.convert import computes
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.packed.marked import marking


def observed(
    fn: Callable[..., Any], params: Any, batches: Sequence[tuple[Any, ...]], program: Program, values: Sequence[Value]
) -> list[tuple[float, float]]:
    """Measures the least and the greatest number of some values of a program on batches.

    Args:
      fn, params: the function.
      batches: tuples of its other arguments, of one shape.
      program: its trace, perhaps for sizes that have names.
      values: results of nodes of its outermost body that compute numbers.
    """
    with marking():
        own = trace(fn, params, *batches[0])
    nodes, alike = ([node for node in each.frame.nodes if computes(node)] for each in (program, own))
    if [node.op for node in nodes] != [node.op for node in alike]:
        raise ArgumentError(
            "the function computes otherwise for the shapes of batches= than for the example: give it their shape, or "
            "leave shapes= out"
        )
    places = {out: (i, j) for i, node in enumerate(nodes) for j, out in enumerate(node.outs)}
    return ranges_of(
        own, [alike[i].outs[j] for i, j in map(places.__getitem__, values)], jax.tree.leaves(params), batches
    )
