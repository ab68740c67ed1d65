"""Refit: the weights that are left when channels are cut make up for those that go; nothing is trained."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.channels import check_groups
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.evidence import Evidence, Seen
from jaxcomp.observe.held_out import Examples, examples_of, is_better
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.observe.moments import unseen
from jaxcomp.posttrain.walk import Walk, lost
from jaxcomp.rewrite.channels.shrink import Keep, decided, mask
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of


def refit(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    groups: Groups,
    keep: Keep,
    *,
    damping: float = 0.01,
    places: int | None = None,
    select: Select | None = None,
) -> Params:
    r"""Zeroes cut channels, as :func:`mask`, and refits the other weights to make up for them, layer by layer.

    Each layer W is fitted, in the order of the computation, to what it gave before any cut, x, on what it is fed now,
    x', by least squares over the inputs S that are left:

    .. math:: V_S = \arg\min \sum |V_S^\top x'_S - W^\top x|^2 + \lambda |V_S - W_S|^2

    Every fourth example (of two or three the last; of one alone the last quarter of its places) is held out: where what
    is fitted to the others does not serve it, weights go less far, or stay. Without any training this recovers most of
    what a cut loses. Cut with :func:`shrink` and the same ``keep``.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: the function that ``groups`` are of, or the same model in training mode,
        in which batch norm follows the layers before it.
      params: before any cut.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one); a few
        hundred images do. What they are in a layer is held in memory, for all of them.
      groups: of :func:`jaxcomp.trace.groups`.
      keep: ``{group: bool [size]}``, or a choice, as for :func:`shrink`.
      damping: :math:`\lambda`, in units of the inputs' mean square.
      places: of each result of a convolution, how many pixels count at most; None: all.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

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
      >>> groups = jc.trace.groups(mlp, params, data)
      >>> new = refit(mlp, params, [data], groups, keep, damping=1e-6)
      >>> new["down"].round(3).tolist()
      [[2.0], [0.0], [1.0]]

    Reference: He et al., Channel pruning for accelerating very deep neural networks, 2017; Luo et al., ThiNet, 2017.
    """
    if not damping >= 0:
        raise ArgumentError(f"damping must be at least 0, got {damping!r}")
    params = concrete(params, "refit")
    check_unquantized(apply_fn, params, "refit")
    given = checked_batches(apply_fn, params, batches, select)
    check_groups(groups)
    chosen, named = decided(keep, groups, params), named_leaves(params)
    masked, kept = mask(groups, params, chosen), _kept(groups, named, chosen)
    program = trace(apply_fn, params, *given[0])
    fitted = {
        path: own.sites
        for path, own in with_factors(program, uses_of(program), jax.tree.leaves(params)).items()
        if own.sites and not own.other and not unseen(own, program, "inputs")
    }

    check_finite({path: named[path] for path in fitted}, why="to which nothing can be fitted")

    examples = examples_of(given)

    def solve(path: str, use: Use, seen: Seen) -> Any:
        leaf = named[path]
        check_finite({path: seen.sizes}, "on the data the input of ", "to which nothing can be fitted")
        new = _fitted(matrix(use, leaf), matrix(use, kept[path]) > 0, seen, damping, examples)
        return jax.device_put(unmatrix(use, new, leaf.shape).astype(leaf.dtype))

    walk = Walk(program, fitted, solve, places, measured=False)
    way = walk.run(jax.tree.leaves(params), [jax.tree.leaves(batch) for batch in given], jax.tree.leaves(masked))
    cut = {path: jnp.where(kept[path], named[path], 0) for path in fitted if path in way.new}
    found, plain = (replace_leaves(masked, {path: own[path] for path in cut}) for own in (way.new, cut))
    # What is better layer by layer must be so at the end too.
    return found if is_better(way.lost, lost(program, params, plain, given)) else plain


def _kept(groups: Groups, named: Mapping[str, Any], keep: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Which entries of each parameter are left."""
    kept = {path: np.ones(np.shape(leaf), bool) for path, leaf in named.items()}
    for (path, axis), own in groups.masks(keep).items():
        others = tuple(i for i in range(kept[path].ndim) if i != axis)
        kept[path] &= np.expand_dims(np.asarray(own), others)
    return kept


def _fitted(
    weight: np.ndarray, kept: np.ndarray, seen: Seen, damping: float, examples: Sequence[Examples]
) -> np.ndarray:
    """The least-squares solution ``[stack x groups, reduction, out]`` on the rows that are left.

    Of all examples, if that of those to fit to serves those that are held out; else of correlations as far as they are
    not due to chance, taken as far as serves them; else the weights are as they were.
    """
    plain = np.where(kept, weight, 0)
    if not seen.reached:
        return plain
    known = seen.evidence(examples)
    if known.other is None:
        return plain
    most = (1 - known.least_gain()) * known.error(plain, weight).sum()
    new = _solved(weight, kept, known, known.inputs, damping)
    if known.error(new, weight).sum() <= most:
        if not known.suffices:
            return new
        all_ = known.pooled()
        return _solved(weight, kept, all_, all_.inputs, damping)
    new = _solved(weight, kept, known, known.moment(), damping)
    new = plain + known.share(plain, new, weight) * (new - plain)
    return new if known.error(new, weight).sum() <= most else plain


def _solved(weight: np.ndarray, kept: np.ndarray, known: Evidence, moment: np.ndarray, damping: float) -> np.ndarray:
    plain = np.where(kept, weight, 0)
    new = plain.copy()
    lack = known.part.pull().astype(np.float64) * known.unit if known.corrects else np.zeros(weight.shape)
    for i, whole in enumerate(moment):
        rows, outs = kept[i].any(1), kept[i].any(0)
        own = whole[np.ix_(rows, rows)]
        raised = max(damping, 1e-9) * np.trace(own) / max(len(own), 1)
        if not (raised > 0 and outs.any()):
            continue  # no data reach it: it stays what it was
        # From the weights as they were: that is what shrinking and raising draw to.
        wanted = (known.inputs[i] @ (weight[i] - plain[i]) + lack[i])[rows]
        new[i][rows] += np.linalg.solve(own + raised * np.eye(len(own)), wanted)
    return np.where(kept, new, 0)
