"""Norms of what weights are multiplied by, over data: the statistics of the score Wanda."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.finite import check_finite
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.matrices import feature_groups, unmatrix
from jaxcomp.observe.moments import summed, unseen
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of


def input_norms(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    places: int | None = None,
    select: Select | None = None,
) -> dict[str, jax.Array]:
    r"""Measures the norm of what each weight is multiplied by, :math:`\sqrt{\sum x^2}` over positions and batches.

    These are the statistics that the score :func:`jaxcomp.prune.wanda` needs, of a function as it is: matmuls and
    convolutions of any layout are watched, in loops and branches too.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: those that are pruned, so that the paths agree: ``lambda p, x: model.apply({"params": p, **rest}, x)``.
      batches: calibration batches of one shape, each the tuple of the other arguments, or the single one.
      places: of each result of a convolution, how many pixels count at most; None: all.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      ``{path: norms}``, float32 of the weight's rank, of size 1 along the axes of its outputs. Weights that no matmul
      or convolution reads, or that read nothing but 0, have none.

    Raises:
      ArgumentError: for no batch, batches of several shapes, what is not finite (the weight is named), and where every
        weight is quantized already.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"w": jnp.array([[4.0, 1.0], [2.0, 3.0]])}
      >>> norms = input_norms(lambda p, x: x @ p["w"], params, [jnp.array([[1.0, 10.0]])])
      >>> norms["w"].tolist()
      [[1.0], [10.0]]
      >>> pruner = jc.prune.prune(0.5, "wanda", distribution="per_output")
      >>> pruner.update(params, pruner.init(params), 1, statistics=norms)["w"].tolist()
      [[False, False], [True, True]]

    Reference: Sun et al., A simple and effective pruning approach for large language models, 2024.
    """
    params = concrete(params, "input_norms")
    given = checked_batches(apply_fn, params, batches, select)
    program = trace(apply_fn, params, *given[0])
    found = with_factors(program, uses_of(program), jax.tree.leaves(params))
    uses = {path: own for path, own in found.items() if own.sites}
    if not uses:
        check_unquantized(apply_fn, params, "input_norms")
    sites = [
        (path, use)
        for path, own in uses.items()
        if not unseen(own, program, "inputs", widest=math.inf)  # only second moments are square
        for use in own.sites
    ]
    run = summed(program, [use for _, use in sites], "inputs", places, _squares)
    sums: dict[str, Any] = {}
    for batch in given:
        for (path, _), own in zip(sites, run(jax.tree.leaves((params, *batch))), strict=True):
            sums[path] = sums.get(path, 0) + own
    check_finite(sums, "on the data the input of ")
    known = {path: own for path, own in sums.items() if own.any()}
    return {path: jnp.asarray(_in_place(uses[path].sites[0], np.sqrt(own)), jnp.float32) for path, own in known.items()}


def _squares(use: Use, rows: Any) -> Any:
    """``[batch, places, n]`` -> ``[batch, n, 1]``."""
    del use
    return jnp.sum(jnp.square(rows), axis=1)[..., None]


def _in_place(use: Use, norms: np.ndarray) -> np.ndarray:
    """Norms ``[stack x groups, reduction, 1]`` as axes of the parameter; groups have norms of their own."""
    groups = feature_groups(use)
    if groups == 1:
        use = use._replace(sizes=use.sizes | dict.fromkeys(use.free, 1))
    wide = np.broadcast_to(norms, (*norms.shape[:2], use.size(use.free) // groups))
    return unmatrix(use, wide, [math.prod(use.sizes[name] for name in axis) for axis in use.home])
