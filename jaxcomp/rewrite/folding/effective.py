"""Weights as sites read them: multiplied, masked, standardized, in the weight's own layout."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcomp.rewrite.folding.batch_norm import evaluated
from jaxcomp.rewrite.folding.run import FoldedRun
from jaxcomp.rewrite.folding.weights import find_weights, weight_values
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.packed.leaf import Indices
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, Uses, uses_of


def as_read(program: Program, named: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluates the parameters as their sites read them.

    Args:
      program: a traced function.
      named: its parameters, by path.

    Returns:
      ``{path: array}`` of the same shapes: a weight that is computed from parameters of its shape, or multiplied by a
      number, as the site reads it; all others as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> half = lambda p, x: x @ (p["w"] * 0.5)
      >>> params, x = {"w": jnp.ones((2, 1))}, jnp.ones((1, 2))
      >>> as_read(trace(half, params, x), params)["w"].tolist()
      [[0.5], [0.5]]
    """
    named = {path: named[path] for path in program.paths}
    values, found = dict(named), find_weights(program)
    if found.weights:
        computed = evaluated(lambda leaves: weight_values(program, found.weights, leaves), list(named.values()))
        folded = {**values, **computed}
        program = trace(_folded(program, found), folded, *_inputs(program))
        uses = with_factors(program, uses_of(program), list(folded.values()))
        for each in found.weights:
            whole = _times(uses.get(each.owner), _wide(folded[each.owner]))
            values |= {path: whole for path in each.paths if np.shape(named[path]) == whole.shape}
        done = {path for each in found.weights for path in each.paths}
    else:
        uses, done = with_factors(program, uses_of(program), list(named.values())), set()
    for path, own in uses.items():
        if own.scaled and path not in done:
            values[path] = _times(own, _wide(named[path]))
    return values


def _folded(program: Program, found: Any) -> Callable[..., Any]:
    def function(params: Mapping[str, Any], *inputs: Any) -> Any:
        run = FoldedRun(program, found.changes, found.live)
        return run.body(program.frame, [*(params[path] for path in program.paths), *inputs])

    return function


def _inputs(program: Program) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(value.dims, value.dtype) for value in program.frame.ins[len(program.paths) :]]


def _times(uses: Uses | None, leaf: np.ndarray) -> np.ndarray:
    """A parameter times its sites' factors; of several sites, the root of their mean square."""
    if uses is None or not uses.sites:
        return leaf
    squares = [np.square(_over(use)) for use in uses.sites]
    return (
        leaf
        if all(np.all(each == 1) for each in squares)
        else leaf * np.sqrt(np.mean(np.stack(np.broadcast_arrays(*squares)), 0))
    )


def _over(use: Use) -> np.ndarray:
    """A use's factor, as it broadcasts against the parameter."""
    if np.ndim(use.factor) == 0:
        return np.asarray(use.factor)
    names: Indices = use.stack[: len(use.scans)]
    sizes = [use.sizes[name] for name in names]
    order = [name for axis in use.home for name in axis if name in names]
    array = np.transpose(np.reshape(use.factor, sizes), [names.index(name) for name in order])
    return array.reshape(
        [int(np.prod([use.sizes[n] for n in axis])) if set(axis) & set(names) else 1 for axis in use.home]
    )


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64)
