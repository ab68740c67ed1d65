"""Saliency: how much each channel of a group matters, from weights, gradients and curvature. Array kernels.

They run on NumPy arrays (on the host, in float64) and on JAX arrays (traced), as ``xp`` says.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.channels import ChannelGroups, Group, Member
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import replicated

Combine = Literal["mean", "sum", "max", "product", "joint"]
Normalize = Literal["mean", "max", "gaussian", "lamp", "none"]


class Sources(NamedTuple):
    """Arrays that channels are scored by, each ``{path: array}``; a leaf without a gradient is left out."""

    weights: Mapping[str, Any]
    grads: Mapping[str, Any] = {}
    curvature: Mapping[str, Any] = {}


class ChannelScore(NamedTuple):
    """A score that sums a term over a channel's entries.

    Attributes:
      term: ``(xp, sources, path) -> array`` of the leaf's shape.
      finish: ``(xp, sums) -> scores``.
      normalize: how groups are made comparable unless the caller says.
      needs: the field of :class:`Sources` that it reads beside the weights.
      on: which members vote: the matrices, the norms' scales, or those that have what it needs.
    """

    term: Callable[[Any, Sources, str], Any]
    finish: Callable[[Any, Any], Any]
    normalize: Normalize
    needs: str = ""
    on: Literal["matrices", "scales", "given"] = "matrices"


def _slope(xp: Any, of: Sources, path: str) -> Any:
    # Of complex numbers JAX's gradient g is such that the loss moves by the real part of g times the change.
    return xp.real(of.weights[path] * of.grads[path])


def _square(xp: Any, x: Any) -> Any:
    """The square of the modulus, which has a slope at 0."""
    return xp.real(x) ** 2 + xp.imag(x) ** 2 if xp.iscomplexobj(x) else x**2


SCORES: dict[str, ChannelScore] = {
    "l1": ChannelScore(lambda xp, of, path: xp.abs(of.weights[path]), lambda xp, s: s, "mean"),
    "l2": ChannelScore(lambda xp, of, path: _square(xp, of.weights[path]), lambda xp, s: xp.sqrt(s), "mean"),
    "lamp": ChannelScore(lambda xp, of, path: _square(xp, of.weights[path]), lambda xp, s: s, "lamp"),
    "norm_scale": ChannelScore(lambda xp, of, path: xp.abs(of.weights[path]), lambda xp, s: s, "mean", on="scales"),
    "taylor": ChannelScore(_slope, lambda xp, s: xp.abs(s), "none", "grads", "given"),
    "taylor_squared": ChannelScore(_slope, lambda xp, s: s**2, "none", "grads", "given"),
    "taylor_abs": ChannelScore(lambda *of: of[0].abs(_slope(*of)), lambda xp, s: s, "none", "grads", "given"),
    "hessian": ChannelScore(
        lambda xp, of, path: xp.real(of.curvature[path]) * _square(xp, of.weights[path]) / 2,
        lambda xp, s: xp.maximum(s, 0),
        "none",
        "curvature",
        "given",
    ),
}
"""Scores that sum over entries; ``fpgm`` compares channels with each other instead."""

NAMES = (*SCORES, "fpgm")
_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda xp, rows: xp.mean(rows, axis=0),
    "sum": lambda xp, rows: xp.sum(rows, axis=0),
    "max": lambda xp, rows: xp.max(rows, axis=0),
    "product": lambda xp, rows: xp.prod(rows, axis=0),
    "joint": lambda xp, rows: rows[0],
}
_NORMALIZE: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda xp, s: _over(xp, s, s.mean()),
    "max": lambda xp, s: _over(xp, s, s.max()),
    "gaussian": lambda xp, s: _over(xp, s - s.mean(), s.std()),
    "lamp": lambda xp, s: _over_the_larger(xp, s),
    "none": lambda xp, s: s,
}


def check(score: str, combine: str, normalize: str | None) -> None:
    """Refuses a ``score``, ``combine`` or ``normalize`` of an unknown name.

    Raises:
      ArgumentError: with the names that there are.
    """
    known = {"score": (score, NAMES), "combine": (combine, _COMBINE), "normalize": (normalize or "none", _NORMALIZE)}
    for what, (given, names) in known.items():
        if given not in names:
            raise ArgumentError(f"{what} must be one of {', '.join(names)}; got {given!r}")


def saliency(group: Group, weights: frozenset[str], score: str, of: Sources, combine: Combine, xp: Any = jnp) -> Any:
    """Scores the channels of one group.

    Args:
      group: one of :func:`jaxcomp.trace.groups`.
      weights: the parameters that a matmul or convolution reads.
      score: one of ``NAMES``.
      of: the arrays to score by.
      combine: how members are combined; ``"joint"`` takes a channel's entries of all members for one vector.
      xp: ``numpy`` or ``jax.numpy``, as the arrays are.

    Returns:
      ``[size]``, not normalized.

    Raises:
      ArgumentError: if no member has the gradient or curvature that the score needs.
    """
    voters = _voters(group, weights, score, of)
    if score == "fpgm":
        rows = [_rows(xp, member, of.weights[member.path]) for member in voters]
        each = [_distances(xp, row) for row in ([xp.concatenate(rows, 1)] if combine == "joint" else rows)]
    else:
        kind = SCORES[score]
        sums = [_sums(xp, member, kind.term(xp, of, member.path)) for member in voters]
        each = [kind.finish(xp, row) for row in ([sum(sums)] if combine == "joint" else sums)]
    return _COMBINE[combine](xp, xp.stack(each))


def normalized(scores: Any, score: str, normalize: Normalize | None = None, xp: Any = jnp) -> Any:
    """Makes a group's scores comparable with those of other groups.

    Args:
      scores: ``[size]``.
      score: by which they were found.
      normalize: the way; None: as befits the score.
      xp: ``numpy`` or ``jax.numpy``, as the array is.
    """
    return _NORMALIZE[normalize or usual(score)](xp, scores)


def usual(score: str) -> Normalize:
    """Returns how a ``score`` is made comparable between groups where the caller does not say."""
    return SCORES[score].normalize if score in SCORES else "mean"


def floating(groups: ChannelGroups, named: Mapping[str, Any]) -> frozenset[str]:
    """Finds the weights of groups that rank channels by their sizes: floating-point ones, and no masks.

    Args:
      groups: of the function.
      named: the parameters, by path.

    Raises:
      ArgumentError: for one that holds other integers.
    """
    kinds = {path: np.dtype(named[path].dtype).kind for path in groups.weights if path in named}
    members = {member.path for group in groups for member in group.members}
    for path in sorted(members & {path for path, kind in kinds.items() if kind in "iu"}):
        raise ArgumentError(
            f"{path!r} holds integers of type {named[path].dtype}, which rank no channels without their scale: prune "
            "before quantizing"
        )
    return frozenset(path for path, kind in kinds.items() if kind not in "iub")


def _voters(group: Group, weights: frozenset[str], score: str, of: Sources) -> list[Member]:
    kind = SCORES.get(score)
    matrices = [m for m in group.members if m.path in weights] or list(group.members)
    if kind is None or kind.on == "matrices":
        return matrices
    if kind.on == "scales":
        names = ("scale", "gamma", "weight")
        return [m for m in group.members if m.path not in weights and m.path.split("/")[-1] in names] or matrices
    given = [m for m in group.members if m.path in getattr(of, kind.needs)]
    if not given:
        paths = ", ".join(sorted({m.path for m in group.members}))
        raise ArgumentError(
            f"the score {score!r} needs {kind.needs}= with a leaf for a member of each group; group {group.name!r} has "
            f"none among its members {paths}: give the tree that the groups were found on"
        )
    return given


def _first(member: Member) -> np.ndarray:
    """``bool [channels, k]``: False where a channel that owns fewer indices than others repeats its last."""
    repeats = np.diff(member.indices, axis=1) == 0
    return np.concatenate([np.ones((len(repeats), 1), bool), ~repeats], axis=1)


def _sums(xp: Any, member: Member, terms: Any) -> Any:
    others = tuple(axis for axis in range(terms.ndim) if axis != member.axis)
    return xp.where(_first(member), replicated(terms.sum(others))[member.indices], 0).sum(1)


def _rows(xp: Any, member: Member, leaf: Any) -> Any:
    """``[channels, entries]``."""
    size = leaf.shape[member.axis]
    flat = xp.moveaxis(replicated(leaf), member.axis, 0).reshape(size, leaf.size // size)
    if xp.iscomplexobj(flat):
        flat = xp.concatenate([xp.real(flat), xp.imag(flat)], axis=1)
    rows = xp.where(_first(member)[:, :, None], flat[member.indices], 0)
    return rows.reshape(len(rows), rows.shape[1] * rows.shape[2])


def _distances(xp: Any, rows: Any) -> Any:
    """The sum of each row's Euclidean distances to all others, by way of inner products."""
    rows = rows - rows.mean(0)  # changes no distance, and lessens what cancels below
    inner = rows @ rows.T if xp is np else jnp.matmul(rows, rows.T, precision="highest")
    norms = xp.diagonal(inner)
    squares = xp.maximum(norms[:, None] + norms[None, :] - 2 * inner, 0)
    return xp.sqrt(xp.where(np.eye(len(rows), dtype=bool), 0, squares)).sum(1)


def _over_the_larger(xp: Any, scores: Any) -> Any:
    """Each score over the sum of those that are not smaller, its own included."""
    order = xp.argsort(scores)
    ascending = scores[order]
    rest = xp.cumsum(ascending[::-1])[::-1]
    return _over(xp, ascending, rest)[xp.argsort(order)]


def _over(xp: Any, scores: Any, whole: Any) -> Any:
    """Scores over what they sum up to, which is 0 only if they are."""
    return scores / xp.where(whole > 0, whole, 1)
