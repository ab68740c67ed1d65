"""Importances: how much each channel of each group matters."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Params
from jaxcomp.trace.groups import Group, Groups, Member

Combine = Literal["mean", "sum", "max"]
_COMBINE: dict[str, Callable[..., Any]] = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max}


def importance(
    groups: Groups,
    params: Params,
    score: Literal["l1", "l2", "taylor", "norm_scale", "random"] = "l2",
    *,
    grads: Params | None = None,
    combine: Combine = "mean",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Scores every channel that can be cut; a low score says that it matters little.

    ``l1``: sum of |w|; ``l2``: root of the sum of w**2; ``taylor``: |sum of w * dL/dw|, the loss that cutting costs to
    first order; ``norm_scale``: |scale| of the norms that the channel goes through; ``random``: uniform. Each member's
    entries of a channel are reduced to a number, and a group's members are combined. Scores of different groups are
    made comparable by dividing each group's by their mean (not for ``taylor``, whose unit is the loss).

    Args:
      groups: of :func:`jaxcomp.trace.groups`.
      params: the parameters that they are groups of.
      score: the measure.
      grads: gradients of the loss, of the structure of ``params`` (or of those leaves that have any); for ``taylor``.
      combine: how members are combined: their mean, sum or max. Biases and statistics have no say in norms.
      seed: for ``random``.

    Returns:
      ``{group: float [size]}``.

    Raises:
      ArgumentError: for an unknown score or combination, or ``taylor`` without gradients.

    Example:
      >>> import jax.numpy as jnp, jaxcomp.trace
      >>> params = {"up": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "down": jnp.ones((2, 1))}
      >>> found = jaxcomp.trace.groups(lambda p, x: jnp.tanh(x @ p["up"]) @ p["down"], params, jnp.ones((1, 2)))
      >>> importance(found, params)["up"].round(2).tolist()
      [1.5, 0.5]

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017; Molchanov et al., Importance estimation for
    neural network pruning, 2019; Liu et al., Network slimming, 2017.
    """
    if combine not in _COMBINE:
        raise ArgumentError(f"combine must be one of {', '.join(_COMBINE)}; got {combine!r}")
    if score == "random":
        rng = np.random.default_rng(seed)
        return {group.name: rng.uniform(size=group.size) for group in groups}
    if score not in ("l1", "l2", "taylor", "norm_scale"):
        raise ArgumentError(f"score must be l1, l2, taylor, norm_scale or random; got {score!r}")
    if score == "taylor" and grads is None:
        raise ArgumentError("the taylor score needs grads=, the gradients of the loss with respect to params")
    leaves, slopes = named_leaves(params), named_leaves(grads)
    scores = {}
    for group in groups:
        each = [_member(m, leaves, slopes, score) for m in _voters(group, leaves, slopes, score)]
        combined = np.asarray(_COMBINE[combine](jnp.stack(each), axis=0), np.float64)
        scores[group.name] = combined if score == "taylor" else combined / max(combined.mean(), 1e-30)
    return scores


def _voters(group: Group, leaves: dict[str, Any], slopes: dict[str, Any], score: str) -> list[Member]:
    if score == "taylor":
        voters = [m for m in group.members if m.path in slopes]
    elif score == "norm_scale":
        voters = [m for m in group.members if m.path.rpartition("/")[2] == "scale"]
    else:
        voters = [m for m in group.members if leaves[m.path].ndim > 1]
    return voters or list(group.members)


def _member(member: Member, leaves: dict[str, Any], slopes: dict[str, Any], score: str) -> jax.Array:
    """One number a channel: ``[channels]``."""
    leaf = jnp.asarray(leaves[member.path], jnp.float32)
    weight = leaf * slopes[member.path] if score == "taylor" and member.path in slopes else leaf
    rows = jnp.moveaxis(weight, member.axis, 0).reshape(weight.shape[member.axis], -1)
    entries = rows[member.indices].reshape(len(member.indices), -1)
    if score == "taylor":
        return jnp.abs(entries.sum(1))
    return jnp.linalg.norm(entries, ord=2 if score == "l2" else 1, axis=1)
