"""Second moments of what sites compute, over data: what a data-aware decomposition must keep."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Params
from jaxcomp.trace.ir import Value, trace
from jaxcomp.trace.observe import Observer, observable
from jaxcomp.trace.uses import Use, Uses, uses_of

WIDEST = 8192
"""Sites with more results than that are not watched: the moments are square."""


class Moments(NamedTuple):
    """What data say of parameters.

    Attributes:
      of: ``{path: [stack, features, features]}``, the second moments of what its sites compute, summed.
      missing: for parameters that sites read, why they have none.
    """

    of: Mapping[str, np.ndarray]
    missing: Mapping[str, str]

    def why_not(self, path: str) -> str:
        """Why a parameter has none; empty if it has."""
        return "" if path in self.of else self.missing.get(path, "no site reads it on the data")


def second_moments(apply_fn: Callable[..., Any], params: Params, data: Iterable[Any]) -> Moments:
    """Second moments of what each parameter's sites compute, summed over batches.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      data: batches, each the tuple of the other arguments, or the single one.

    Raises:
      ArgumentError: if there is no batch.
    """
    sums: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    runs: dict[Any, Any] = {}
    for batch in data:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        key = jax.tree.structure(inputs), tuple((np.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(inputs))
        if key not in runs:
            run, unseen = _observed(apply_fn, params, inputs)
            runs[key] = jax.jit(run)
            missing |= unseen
        for path, moment in runs[key](params, *inputs).items():
            sums[path] = sums.get(path, 0) + np.asarray(moment, np.float64)
    if not runs:
        raise ArgumentError("data= gave no batch: give at least one (a generator can be read only once)")
    empty = {path for path, moment in sums.items() if not (np.isfinite(moment).all() and moment.any())}
    missing |= dict.fromkeys(empty, "what it computes on the data is 0 or not finite")
    return Moments({path: moment for path, moment in sums.items() if path not in missing}, missing)


def _observed(
    apply_fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...]
) -> tuple[Callable[..., dict[str, Any]], dict[str, str]]:
    """The sums for one batch as a function of it, and why there are none of some parameters."""
    program = trace(apply_fn, params, *inputs)
    uses = {path: own for path, own in uses_of(program).items() if own.sites}
    reachable = observable(program.frame)
    missing = {path: why for path, own in uses.items() if (why := _unseen(own, reachable))}
    sites = [(path, use) for path, own in uses.items() if path not in missing for use in own.sites]
    observer = Observer(
        program,
        {use.node.outs[0]: partial(_moment, use) for _, use in sites},
        apart={use.node.outs[0]: use.scans for _, use in sites},
    )

    def run(params: Params, *inputs: Any) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        _, found = observer(jax.tree.leaves((params, *inputs)))
        for (path, _), moment in zip(sites, found, strict=True):
            sums[path] = sums.get(path, 0) + moment.reshape(-1, *moment.shape[-2:])
        return sums

    return run, missing


def _unseen(uses: Uses, reachable: set[Value]) -> str:
    """Why a parameter has no moments; empty if it has."""
    first = uses.sites[0]
    if any((use.stack, use.free) != (first.stack, first.free) for use in uses.sites):
        return "its sites compute different features"
    if first.size(first.free) > WIDEST:
        return f"more than {WIDEST:,} features"
    if any(use.node.outs[0] not in reachable for use in uses.sites):
        return "it is read in a while loop's condition"
    return ""


def _moment(use: Use, result: Any) -> Any:
    rows = _rows(use, result)
    return jnp.einsum("bpi,bpj->bij", rows, rows, precision="highest")


def _rows(use: Use, result: Any) -> Any:
    """A site's result as ``[batch of the matmul, places, features]``."""
    result = result.astype(jnp.float32)
    if use.is_conv:
        rows = jnp.moveaxis(result, use.node.params["dimension_numbers"].out_spec[1], -1)
        return rows.reshape(1, -1, use.size(use.free))
    batch = len(use.node.params["dimension_numbers"][1][0])
    blocks = result.reshape(use.size(use.stack[len(use.scans) :]), *result.shape[batch:])
    free = use.node.ins[use.side].shape
    summed, batched = (pair[use.side] for pair in use.node.params["dimension_numbers"])
    count = len(free) - len(summed) - len(batched)
    if use.side == 0:
        blocks = jnp.moveaxis(blocks, range(1, 1 + count), range(blocks.ndim - count, blocks.ndim))
    return blocks.reshape(blocks.shape[0], -1, use.size(use.free))
