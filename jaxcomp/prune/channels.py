"""Channel pruning as a view: whole channels are zero, those that :func:`jaxcomp.rewrite.shrink` then removes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core import leaves, threshold
from jaxcomp.core.called import printed
from jaxcomp.core.channels import ChannelGroups, check_groups
from jaxcomp.core.counts import fraction_at, kept_count
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import replicated, spread_like
from jaxcomp.core.paths import named_leaves, path_string
from jaxcomp.core.types import Compressor, Note, Params, Schedule, State, Step
from jaxcomp.core.units import common_unit
from jaxcomp.prune.limits import LimitRule, least_kept
from jaxcomp.prune.saliency import SCORES, Combine, Normalize, Sources, check, floating, normalized, saliency, usual
from jaxcomp.prune.selection import all_finite

Scope = Literal["group", "global"]


def channel_masks(scores: Sequence[Array], fraction: Any, scope: Scope, least: Sequence[int]) -> list[Array]:
    """Makes masks that keep the channels of highest score; True = kept.

    Args:
      scores: ``[size]`` of each group; NaN is highest. Of equal scores the first is kept.
      fraction: of channels to cut, in [0, 1); a float, or a scalar array that may be traced.
      scope: ``"group"`` ranks every group by itself, ``"global"`` all of them together.
      least: how many channels each group keeps at least.

    Returns:
      Boolean arrays of the same shapes: ``round(fraction * size)`` are False of each group or of all, less what
      ``least`` forbids.

    Example:
      >>> import jax.numpy as jnp
      >>> channel_masks([jnp.array([3.0, 1.0, 2.0]), jnp.array([9.0, 8.0])], 0.4, "global", [1, 1])
      [Array([ True, False, False], dtype=bool), Array([ True,  True], dtype=bool)]
    """
    scores = [jnp.where(jnp.isnan(own), jnp.inf, own) for own in scores]
    ranks = [_ranks(own) for own in scores]
    if scope == "group":
        counts = [kept_count(fraction, len(own)) for own in scores]
        kept = [jnp.maximum(count, floor) for count, floor in zip(counts, least, strict=True)]
        return [rank < count for rank, count in zip(ranks, kept, strict=True)]
    if not scores:
        return []
    safe = [jnp.where(rank < floor, jnp.inf, own) for own, rank, floor in zip(scores, ranks, least, strict=True)]
    total = sum(map(len, scores))
    count = jnp.maximum(jnp.asarray(kept_count(fraction, total), jnp.uint32), sum(least))
    (mask,) = threshold.keep_largest([jnp.concatenate(safe)], count[None], [0], score=threshold.itself)
    return jnp.split(mask, np.cumsum([len(own) for own in scores])[:-1])


@printed
def channels(
    groups: ChannelGroups,
    fraction: float | Schedule,
    *,
    score: str | Callable[[Params], Mapping[str, Any]] = "l2",
    scope: Scope = "group",
    soft: bool = False,
    combine: Combine = "mean",
    normalize: Normalize | None = None,
    rules: Sequence[LimitRule] = (),
    minimum: int = 1,
    maximum: float = 1.0,
) -> Compressor:
    r"""Prunes the channels that matter least: every entry that makes one is 0.

    :math:`w_c \mapsto w_c \cdot [s_c \ge t]`, for all parameters that make channel c together: kernels, biases, scales,
    statistics (of groups found with ``lenient=True`` also the weights that read it). A mask makes nothing faster;
    ``jc.rewrite.shrink(apply_fn, params, *example, keep=state)`` removes what it zeroes, and computes the same.

    Hard: once cut, a channel stays cut. Soft: each update ranks all channels anew, so one may come back if its weights
    live on: apply the view after the optimizer's step, once an epoch, or wrap it in :func:`jaxcomp.straight_through`.
    A schedule that rises slowly makes either asymptotic. Step 0 starts afresh.

    An update costs as much as a ranking, whatever it changes: 0.6 s for all channels of a ResNet-50 together on a CPU.
    ``jc.every(n, channels(...))`` ranks at every n-th step only.

    Args:
      groups: of :func:`jaxcomp.trace.groups`, found on a tree like the one that this is given.
      fraction: of channels to cut, in [0, 1), or an optax schedule of it (step -> fraction).
      score: ``l1``, ``l2``, ``lamp``, ``fpgm``, ``norm_scale``; ``taylor``, ``taylor_squared``, ``taylor_abs``, for
        which ``update`` needs ``grads=`` (without, and where one is not finite, masks stand; at first all channels are
        kept): see :func:`jaxcomp.rewrite.importance`. Or a function ``params -> {group: [size]}`` that can be traced.
      scope: ``"group"``: every group gives up the fraction; ``"global"``: all together do, ranked as one.
      soft: whether channels may come back.
      combine: how the scores of a group's members are combined.
      normalize: how groups are made comparable; as befits the score unless given.
      rules, minimum, maximum: of the channels that each group keeps at least: :func:`jaxcomp.prune.least_kept`.

    Returns:
      A compressor whose state is ``{group: bool [size]}``, True = kept: the ``keep=`` of ``shrink``.

    Raises:
      ArgumentError: for a fraction outside [0, 1) or an unknown name; from its functions, for a tree that lacks a
        parameter of the groups.
      RuleError: for a rule that names no group.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> params = {"up": jnp.array([[3.0, 0.5], [4.0, 1.0]]), "down": jnp.ones((2, 1))}
      >>> found = jc.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> prune = channels(found, 0.5)
      >>> state = prune.init(params)
      >>> state["up"].tolist(), prune.apply(params, state)["up"].tolist()
      ([True, False], [[3.0, 0.0], [4.0, 0.0]])

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017 (hard); He et al., Soft filter pruning, 2018, and
    Asymptotic soft filter pruning, 2019; Fang et al., DepGraph, 2023 (groups).
    """
    check_groups(groups)
    if scope not in ("group", "global"):
        raise ArgumentError(f"scope must be 'group' or 'global', got {scope!r}")
    check(score if isinstance(score, str) else "l2", combine, normalize)
    if score == "hessian":
        raise ArgumentError("the score 'hessian' needs a curvature, which update is not given: pass a function instead")
    asked = fraction_at(fraction, "fraction", "channels")
    least = least_kept(groups, rules, minimum, maximum)
    needs_grads = isinstance(score, str) and score in SCORES and SCORES[score].needs == "grads"
    places = _places(groups)

    def update(params: Params, state: State, step: Step, *, grads: Params | None = None, **extra: Any) -> State:
        del extra
        _check_members(groups, params)
        old = state or {group.name: jnp.ones(group.size, bool) for group in groups}
        old = {name: replicated(mask) | (jnp.asarray(step) == 0) for name, mask in old.items()}
        if needs_grads and grads is None:
            return old
        scores = score(params) if callable(score) else _scored(groups, score, params, grads, combine, normalize)
        ranked = [jnp.asarray(scores[group.name], jnp.float32) for group in groups]
        usable = all_finite(ranked) if needs_grads and ranked else True
        if not soft:
            ranked = [jnp.where(old[g.name], own, -jnp.inf) for g, own in zip(groups, ranked, strict=True)]
        masks = channel_masks(ranked, asked(step), scope, [least[group.name] for group in groups])
        found = {group.name: mask for group, mask in zip(groups, masks, strict=True)}
        found = {name: jnp.where(usable, mask, old[name]) for name, mask in found.items()}
        return found if soft else {name: mask & old[name] for name, mask in found.items()}

    def apply(params: Params, state: State) -> Params:
        _check_members(groups, params)
        return _masked(params, places, [replicated(state[group.name]) for group in groups])

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del state
        rate = float(asked(step))
        rates = [np.full(g.size, min(rate, 1 - least[g.name] / g.size)) for g in groups]
        return _notes(params, places, np.concatenate([*rates, np.zeros(1)]))

    return Compressor(lambda params: update(params, None, 0), update, apply, describe)


def _ranks(scores: Array) -> Array:
    """How many channels stand before each: those of higher score, and earlier ones of the same."""
    index = np.arange(len(scores))
    earlier = (scores[:, None] == scores[None, :]) & (index[:, None] < index[None, :])
    return ((scores[:, None] > scores[None, :]) | earlier).sum(0)


Places = dict[str, list[tuple[int, np.ndarray]]]
"""``{path: [(axis, int [size of the axis])]}``: which of all channels owns an index; one past the last: none."""


def _places(groups: ChannelGroups) -> Places:
    total = sum(group.size for group in groups)
    places: Places = {}
    first = 0
    for group in groups:
        for member in filter(groups.zeroes, group.members):
            axes = places.setdefault(member.path, [])
            # An index may belong to two groups, a head's and a dimension's: then the axis has two owners.
            free = (own for axis, own in axes if axis == member.axis and np.all(own[member.indices] == total))
            owner = next(free, None)
            if owner is None:
                owner = np.full(groups.shapes[member.path][member.axis], total, np.int32)
                axes.append((member.axis, owner))
            owner[member.indices] = np.arange(first, first + group.size)[:, None]
        first += group.size
    return places


def _scored(
    groups: ChannelGroups,
    score: str,
    params: Params,
    grads: Params | None,
    combine: Combine,
    normalize: Normalize | None,
) -> dict[str, Array]:
    of, voting = Sources(_single(params), _single(grads)), floating(groups, named_leaves(params))
    raw = {}
    for group, scaled in zip(groups, _in_units(groups, score, of, combine, normalize or usual(score)), strict=True):
        raw[group.name] = normalized(saliency(group, voting, score, scaled, combine), score, normalize)
    return raw


def _in_units(groups: ChannelGroups, score: str, of: Sources, combine: Combine, normalize: Normalize) -> list[Sources]:
    """Arrays that each group is scored by, in a unit: squares of 1e-20 are 0 in float32, of 1e20 infinite.

    What is normalized has a unit a group, the rest one for all; products of several numbers as of one member do not
    compare in any. Weights times gradients have the loss's unit, whatever the weights' is.
    """
    if (score in SCORES and SCORES[score].needs) or (normalize == "none" and combine == "product"):
        return [of] * len(groups)
    paths = [{member.path for member in group.members} & of.weights.keys() for group in groups]
    if normalize == "none":
        paths = [set().union(*paths)] * len(groups)
    found = []
    for own in paths:
        by = common_unit(of.weights[path] for path in sorted(own))
        found.append(Sources({path: of.weights[path] / by for path in own}))
    return found


def _masked(params: Params, places: Places, masks: list[Array]) -> Params:
    kept = jnp.concatenate([*masks, jnp.ones(1, bool)])

    def view(path: Any, leaf: Any) -> Any:
        for axis, owner in places.get(path_string(path), []):
            mask = kept[owner].reshape([-1 if i == axis else 1 for i in range(leaf.ndim)])
            leaf = jnp.where(spread_like(mask, leaf), leaf, jnp.zeros_like(leaf))
        return leaf

    return jax.tree_util.tree_map_with_path(view, params)


def _check_members(groups: ChannelGroups, params: Params) -> None:
    given = {path: np.shape(leaf) for path, leaf in named_leaves(params).items()}
    for path in sorted({member.path for group in groups for member in group.members}):
        if given.get(path) != groups.shapes[path]:
            came = f"has shape {given[path]} here" if path in given else "this tree lacks"
            raise ArgumentError(
                f"channels go through {path!r} of shape {groups.shapes[path]}, which {came}: give the whole tree that "
                "the groups were found on, or find the groups of a function of this tree "
                "(jc.trace.groups(lambda params, rest, x: ..., params, rest, x))"
            )


def _single(tree: Params | None) -> dict[str, Array]:
    """The leaves that are numbers with a modulus, in single precision."""
    inexact = {path: leaf for path, leaf in named_leaves(tree).items() if leaves.is_inexact(leaf)}
    return {path: leaf.astype(leaves.single(leaf.dtype)) for path, leaf in inexact.items()}


def _notes(params: Params, places: Places, rates: np.ndarray) -> dict[str, Note]:
    """The note of each leaf, given the fraction of each channel's entries that go."""
    notes = {}
    for path, leaf in named_leaves(params).items():
        kept = [1 - rates[owner].mean() for _, owner in places.get(path, [])]
        why = "it makes no channel that can be cut" if leaves.is_inexact(leaf) else leaves.NOT_REAL
        notes[path] = Note(sparsity=float(1 - np.prod(kept))) if kept else Note(skipped=why)
    return notes
