"""Importances: how much each channel of each group matters."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays, concrete
from jaxcomp.core.channels import check_groups
from jaxcomp.core.errors import ArgumentError, PathError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.observe.activations import STATISTICS, activations
from jaxcomp.observe.batches import Select, ending
from jaxcomp.prune import saliency
from jaxcomp.prune.saliency import Combine, Normalize, Sources
from jaxcomp.rewrite.folding.effective import as_read
from jaxcomp.trace.channels.groups import Groups
from jaxcomp.trace.integer_weights import voting

Scores = dict[str, np.ndarray]


def importance(
    groups: Groups,
    params: Params,
    score: str = "l2",
    *,
    grads: Params | Iterator[Params] | None = None,
    curvature: Params | None = None,
    batches: Iterable[Any] | None = None,
    combine: Combine = "mean",
    normalize: Normalize | None = None,
    seed: int = 0,
    select: Select | None = None,
) -> Scores:
    r"""Scores every channel that can be cut; a channel of low score matters little.

    A weight counts as its matmul or convolution reads it: multiplied by a number, masked, standardized.

    Of w, the entries that a channel owns in one member, g = dL/dw and h = d2L/dw2 (of complex ones the modulus counts,
    and the real part of w g):

    ==================  ===========================================================================================
    ``l1``              sum of \|w\|
    ``l2``              root of the sum of w**2
    ``lamp``            sum of w**2, over the same sum of all channels of the group that are not smaller
    ``fpgm``            sum of the Euclidean distances from w to the w of every other channel: the least is nearest to
                        the geometric median, and the others can replace it
    ``norm_scale``      \|scale\| of the norms that the channel goes through; l1 for a group without any
    ``taylor``          \|sum of w g\|: what cutting costs, to first order
    ``taylor_squared``  (sum of w g)**2: Molchanov's group contribution
    ``taylor_abs``      sum of \|w g\|: every entry by itself, as Torch-Pruning does unless told
    ``hessian``         sum of h w**2 / 2: what cutting costs to second order at a minimum; 0 if that is negative.
                        With :func:`fisher_diagonal` as h it is half Molchanov's sum over single entries, (w g)**2
    ``activation``      mean of \|a\|, a being what the group's readers are fed
    ``apoz``            the fraction of a that is not 0: one minus the average percentage of zeros
    ``random``          uniform
    ==================  ===========================================================================================

    Kernels alone vote in norms and distances, no biases and statistics; in ``taylor*`` and ``hessian`` all members with
    a gradient or curvature do. The sum of w g keeps its sign within a member and loses it before members are combined
    (Torch-Pruning's order); ``combine="joint"`` keeps it throughout, so that scale and bias of a norm together give
    Molchanov's criterion at a gate after it. Before batch norm in training, sum of w g of a kernel is 0: there joint or
    ``sum`` loses nothing, ``product`` all.

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      params: the parameters that they are groups of.
      score: the measure.
      grads: for ``taylor*``: gradients of the loss, of the structure of ``params`` (or of those leaves that have any);
        or an iterator of them, one a batch, over which scores are averaged.
      curvature: for ``hessian``: the Hessian's diagonal likewise, by :func:`hessian_diagonal` or
        :func:`fisher_diagonal`.
      batches: for ``activation`` and ``apoz``: calibration batches, each the tuple of the function's other arguments
        (or the single one), of the example's shapes.
      combine: how members are combined: ``"mean"``, ``"sum"``, ``"max"`` or ``"product"`` of their scores; ``"joint"``
        takes a channel's entries in all members for one vector (with l2: DepGraph's group norm).
      normalize: how groups are made comparable: divided by their ``"mean"`` or ``"max"``, ``"gaussian"`` (less the
        mean, over the standard deviation), ``"lamp"``, or ``"none"``. Unless given: none for ``taylor*`` and
        ``hessian`` (whose unit is the loss), ``apoz`` and ``random``, lamp for ``lamp``, else mean.
      seed: for ``random``.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      ``{group: float64 [size]}``.

    Raises:
      ArgumentError: for an unknown name, or when what the score needs is missing or holds NaN or infinity (the path and
        how many).

    Example:
      >>> import jax.numpy as jnp, jaxcomp.trace
      >>> params = {"up": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> importance(found, params)["up"].round(2).tolist()
      [1.5, 0.5]

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017 (l1); Lee et al., Layer-adaptive sparsity for the
    magnitude-based pruning, 2021 (lamp; of channels as in Torch-Pruning); He et al., Filter pruning via geometric
    median, 2019 (fpgm); Liu et al., Network slimming, 2017 (norm_scale); Molchanov et al., Importance estimation for
    neural network pruning, 2019 (taylor*); LeCun et al., Optimal brain damage, 1990 (hessian); Hu et al., Network
    trimming, 2016 (apoz); Fang et al., DepGraph, 2023 (members combined).
    """
    check_groups(groups)
    params = as_arrays(params)
    names = (*saliency.NAMES, *STATISTICS, "random")
    if score not in names:
        raise ArgumentError(f"score must be one of {', '.join(names)}; got {score!r}")
    saliency.check("l2", combine, normalize)
    if score == "random":
        rng = np.random.default_rng(seed)
        raw = {group.name: rng.uniform(size=group.size) for group in groups}
    elif score in STATISTICS:
        raw = activations(groups, params, _given(batches, score, "batches"), score, select)
    else:
        raw = _by_entries(groups, params, score, grads, curvature, combine)
    unit: Normalize | None = "none" if score in ("apoz", "random") else None
    return {name: saliency.normalized(own, score, normalize or unit, np) for name, own in raw.items()}


def _by_entries(
    groups: Groups, params: Params, score: str, grads: Any, curvature: Params | None, combine: Combine
) -> Scores:
    needs = saliency.SCORES[score].needs if score in saliency.SCORES else ""
    slopes = _given(grads, score, needs) if needs == "grads" else None
    bends = _given(curvature, score, needs) if needs == "curvature" else None
    weights, voters = _Host(params), groups.weights
    if not needs:  # gradients and curvature are those of the parameters themselves
        program = groups.coupling.program
        named = {path: weights.raw(path) for path in program.paths}
        read = as_read(program, named)
        weights.update(read)
        voters = groups.weights if score == "norm_scale" else voting(groups, named, read)
    total: Scores = {}
    count = 0
    for each in ending(slopes, "grads", "trees of gradients") if isinstance(slopes, Iterator) else [slopes]:
        of = Sources(weights, _Host(each, "the gradient of "), _Host(bends, "the curvature of "))
        for group in groups:
            own = saliency.saliency(group, voters, score, of, combine, np)
            total[group.name] = total.get(group.name, 0) + own
        count += 1
    if not count:
        raise ArgumentError(f"the score {score!r} needs grads=: the iterator gave none")
    return {name: own / count for name, own in total.items()}


class _Host(dict[str, Any]):
    """The leaves of a tree by path, in double precision as each is read, and refused if not finite."""

    def __init__(self, tree: Any, whose: str = ""):
        super().__init__(named_leaves(tree))
        self._whose = whose

    def raw(self, path: str) -> Any:
        """A leaf as it is; an error that names it if there is none."""
        if path not in self:
            raise PathError(
                f"{self._whose}{path!r} is missing, which the groups were found with: give a tree of the same paths; "
                f"these are {', '.join(map(repr, self)) or 'none'}"
            )
        return super().__getitem__(path)

    def __getitem__(self, path: str) -> np.ndarray:
        leaf = concrete({path: self.raw(path)}, "importance")[path]
        check_finite({path: leaf}, self._whose)
        return np.asarray(leaf, np.complex128 if jnp.iscomplexobj(leaf) else np.float64)


def _given(value: Any, score: str, name: str) -> Any:
    if value is None:
        what = {
            "grads": "the gradients of the loss with respect to params",
            "curvature": "the Hessian's diagonal (jc.observe.hessian_diagonal or jc.observe.fisher_diagonal)",
            "batches": "calibration batches, each the tuple of the function's other arguments",
        }[name]
        raise ArgumentError(f"the score {score!r} needs {name}=, {what}")
    return value
