"""Refit: the weights that are left when channels are cut make up for those that go; nothing is trained."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.types import Params
from jaxcomp.rewrite.batches import Select, checked_batches
from jaxcomp.rewrite.integer_weights import check_unquantized
from jaxcomp.rewrite.matrices import matrix, unmatrix
from jaxcomp.rewrite.moments import unseen
from jaxcomp.rewrite.shrink import mask
from jaxcomp.rewrite.walk import Seen, Walk
from jaxcomp.trace.groups import Groups
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of


def refit(
    groups: Groups,
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    keep: Mapping[str, Any],
    *,
    damping: float = 0.01,
    places: int | None = None,
    select: Select | None = None,
) -> Params:
    r"""Parameters whose cut channels are 0, as of :func:`mask`, and whose others make up for them, layer by layer.

    Each layer W is fitted, in the order of the computation, to what it gave before any cut, x, on what it is fed now,
    x', by least squares over the inputs S that are left:

    .. math:: V_S = \arg\min \sum |V_S^\top x'_S - W^\top x|^2 + \lambda |V_S - W_S|^2

    Without any training this recovers most of what a cut loses. Cut with :func:`shrink` and the same ``keep``.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      apply_fn: ``apply_fn(params, *inputs)``: the function that they are groups of, or the same model in training mode,
        in which batch norm follows the layers before it.
      params: before any cut.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one); a few
        hundred images do. What they are in a layer is held in memory, for all of them.
      keep: ``{group: bool [size]}``, as for :func:`shrink`.
      damping: :math:`\lambda`, in units of the inputs' mean square.
      places: of each result of a convolution, how many pixels count at most; None: all.
      select: what of each batch the function is given, a key or a function of it: :mod:`jaxcomp.rewrite.batches`.

    Returns:
      A tree like ``params``. A parameter that something else than matmuls and convolutions reads is masked, no more.

    Raises:
      ArgumentError: for no batch, batches of several shapes, a negative damping, weights or inputs of
        them that are not finite (the weight is named), or as :func:`mask` does.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"up": jnp.eye(2)[:, [0, 0, 1]], "down": jnp.array([[1.0], [1.0], [1.0]])}
      >>> mlp = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
      >>> data = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> keep = {"up": [True, False, True]}  # the second channel computes what the first does
      >>> new = refit(jc.trace.groups(mlp, params, data), mlp, params, [data], keep, damping=1e-6)
      >>> new["down"].round(3).tolist()
      [[2.0], [0.0], [1.0]]

    Reference: He et al., Channel pruning for accelerating very deep neural networks, 2017; Luo et al., ThiNet, 2017.
    """
    if not damping >= 0:
        raise ArgumentError(f"damping must be at least 0, got {damping!r}")
    params = as_arrays(params)
    check_unquantized(params, "refit")
    given = checked_batches(apply_fn, params, batches, select)
    masked, named = mask(groups, params, keep), named_leaves(params)
    kept = _kept(groups, named, keep)
    program = trace(apply_fn, params, *given[0])
    fitted = {
        path: own.sites
        for path, own in with_factors(program, uses_of(program), jax.tree.leaves(params)).items()
        if own.sites and not own.other and not unseen(own, program, "inputs")
    }

    check_finite({path: named[path] for path in fitted}, why="to which nothing can be fitted")

    def solve(path: str, use: Use, seen: Seen) -> Any:
        leaf = named[path]
        check_finite({path: seen.now}, "on the data the input of ", "to which nothing can be fitted")
        new = _fitted(matrix(use, leaf), matrix(use, kept[path]) > 0, seen, damping)
        return jnp.asarray(unmatrix(use, new, leaf.shape), leaf.dtype)

    walk = Walk(program, fitted, solve, places)
    new = walk.run(jax.tree.leaves(params), [jax.tree.leaves(batch) for batch in given], jax.tree.leaves(masked))
    return replace_leaves(masked, {path: leaf for path, leaf in new.items() if path in fitted})


def _kept(groups: Groups, named: Mapping[str, Any], keep: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Which entries of each parameter are left."""
    kept = {path: np.ones(np.shape(leaf), bool) for path, leaf in named.items()}
    for (path, axis), own in groups.masks(keep).items():
        others = tuple(i for i in range(kept[path].ndim) if i != axis)
        kept[path] &= np.expand_dims(np.asarray(own), others)
    return kept


def _fitted(weight: np.ndarray, kept: np.ndarray, seen: Seen, damping: float) -> np.ndarray:
    """The least-squares solution ``[stack x groups, reduction, out]`` on the rows that are left."""
    new = np.where(kept, weight, 0)
    for i, moment in enumerate(seen.now):
        rows, outs = kept[i].any(1), kept[i].any(0)
        own = moment[np.ix_(rows, rows)]
        raised = max(damping, 1e-9) * np.trace(own) / max(len(own), 1)
        if not (np.isfinite(own).all() and raised > 0 and outs.any()):
            continue  # no data reach it: it stays what it was
        cross = moment if seen.cross is None else seen.cross[i]
        wanted = (cross @ weight[i])[rows] + raised * weight[i][rows]
        solved = np.linalg.solve(own + raised * np.eye(len(own)), wanted)
        new[i][np.ix_(rows, outs)] = solved[:, outs]
    return np.where(kept, new, 0)
