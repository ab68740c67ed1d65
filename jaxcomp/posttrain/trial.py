"""A trial: what quantizing parameters to the nearest does to a function's results, on examples that are held out."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Batches
from jaxcomp.observe.held_out import is_better
from jaxcomp.posttrain.quantized_inputs import altered_inputs
from jaxcomp.posttrain.round_layer import fitted, nearest
from jaxcomp.posttrain.walk import lost
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.targets import find_targets, reached
from jaxcomp.trace.ir import Program
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import uses_of


def quantizes_better(
    program: Program, apply_fn: Callable[..., Any], params: Params, changed: Params, given: Batches, scheme: Any
) -> bool:
    """Returns whether a function of other parameters, once quantized, is nearer to the float one by more than chance.

    Args:
      program: the function, traced.
      apply_fn: the function.
      params: its parameters, with which it is compared.
      changed: others, with which it computes the same.
      given: the batches on which it is judged.
      scheme: as of :func:`jaxcomp.rewrite.quantize`.
    """

    def errors(own: Params) -> np.ndarray:
        ranges, named = calibrate(apply_fn, own, given, scheme), named_leaves(own)
        targets = reached(find_targets(program, scheme, own), ranges)
        uses = with_factors(program, uses_of(program), jax.tree.leaves(own))
        weights = targets.weights
        grids = fitted(list(weights.values()), [named[path] for path in weights])
        pairs = zip(weights.items(), grids, strict=True)
        rounded = {path: nearest(target, named[path], grid).leaf for (path, target), grid in pairs}
        return lost(program, params, replace_leaves(own, rounded), given, altered_inputs(targets, uses, ranges))

    return is_better(errors(changed), errors(params))
