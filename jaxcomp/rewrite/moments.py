"""Second moments of what sites compute, over data: what a data-aware decomposition must keep."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Params
from jaxcomp.trace import compat
from jaxcomp.trace.interpreter import Interpreter
from jaxcomp.trace.ir import Node, trace
from jaxcomp.trace.packed import Packed, pack
from jaxcomp.trace.uses import Use, Uses, uses_of

WIDEST = 8192
"""Sites with more results than that are not watched: the moments are square."""


class _Watcher(Interpreter):
    """Runs a program and notes, for each parameter, the second moments of what its sites compute."""

    def __init__(self, uses: dict[str, Uses]) -> None:
        super().__init__()
        self._uses = {(path, use.node): use for path, own in uses.items() for use in own.sites}

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        """Derivatives and rematerialisation are of no use here: their bodies are run."""
        if node.op in compat.REMAT or node.op == "custom_jvp_call":
            return self.body(node.frames[0], operands)
        return super().node(node, operands)

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight: Packed = operands[side]
        (result,) = compat.bind(node.equation, [self.dense(x, node) for x in operands])
        use = self._uses.get((weight.path, node))
        if use is not None and use.size(use.free) <= WIDEST:
            rows = _rows(use, result)
            moment = jnp.einsum("bpi,bpj->bij", rows, rows, precision="highest")
            self.seen[weight.path] = self.seen.get(weight.path, 0) + moment
        return result

    def note(self, seen: dict[str, Any], scanned: Sequence[Any] | None = None) -> None:
        own = {x.path for x in scanned or () if isinstance(x, Packed)}
        for path, moment in seen.items():
            if scanned is not None:
                moment = moment.reshape(-1, *moment.shape[2:]) if path in own else moment.sum(0)
            self.seen[path] = self.seen.get(path, 0) + moment


def _rows(use: Use, result: Any) -> Any:
    """A site's result as ``[batch of the matmul, places, features]``."""
    result = result.astype(jnp.float32)
    if use.is_conv:
        rows = jnp.moveaxis(result, use.node.params["dimension_numbers"].out_spec[1], -1)
        return rows.reshape(1, -1, use.size(use.free))
    batch = len(use.node.params["dimension_numbers"][1][0])
    blocks = result.reshape(use.size(use.stack[use.scans :]), *result.shape[batch:])
    free = use.node.ins[use.side].shape
    summed, batched = (pair[use.side] for pair in use.node.params["dimension_numbers"])
    count = len(free) - len(summed) - len(batched)
    if use.side == 0:
        blocks = jnp.moveaxis(blocks, range(1, 1 + count), range(blocks.ndim - count, blocks.ndim))
    return blocks.reshape(blocks.shape[0], -1, use.size(use.free))


def second_moments(apply_fn: Callable[..., Any], params: Params, data: Iterable[Any]) -> dict[str, np.ndarray]:
    """Second moments of what each parameter's sites compute, summed over batches.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      data: batches, each the tuple of the other arguments, or the single one.

    Returns:
      ``{path: [stack, features, features]}``; without parameters whose sites are in branches or while loops.
    """
    sums: dict[str, np.ndarray] = {}
    runs: dict[Any, Any] = {}
    for batch in data:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        key = jax.tree.structure(inputs), tuple((np.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(inputs))
        if key not in runs:
            runs[key] = jax.jit(_observed(apply_fn, params, inputs))
        for path, moment in runs[key](params, *inputs).items():
            sums[path] = sums.get(path, 0) + np.asarray(moment, np.float64)
    return sums


def _observed(apply_fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...]) -> Callable[..., dict[str, Any]]:
    program = trace(apply_fn, params, *inputs)
    uses = uses_of(program)

    def run(params: Params, *inputs: Any) -> dict[str, Any]:
        watcher = _Watcher(uses)
        leaves = jax.tree.leaves(params)
        packed = [
            pack(path, leaf) if uses.get(path, Uses()).sites else leaf
            for path, leaf in zip(program.paths, leaves, strict=True)
        ]
        return watcher.watched(program.frame, [*packed, *jax.tree.leaves(inputs)])[1]

    return run
