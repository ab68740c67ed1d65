"""Ranking losses: the student need only order the classes as the teacher does."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcomp.core.errors import ArgumentError
from jaxcomp.distill.inputs import check_temperature, counted, logit_pair


def rank_pairs(student: Array, teacher: Array, *, temperature: float = 1.0, where: Any = None) -> Array:
    r"""Compares which class of each pair is ranked higher, and how surely, per example.

    The mean over pairs of classes of :math:`T^2 \mathrm{KL}(\sigma((t_i - t_j)/T) \Vert \sigma((s_i - s_j)/T))`:
    RankNet, with the teacher's probability that i is above j as the target, and less its entropy, so that 0 is
    reached. No gradient reaches the teacher. Computed in float32 or better, classes squared numbers an example.

    Args:
      student: ``[..., classes]`` logits.
      teacher: likewise; pairs with a class at -inf add nothing.
      temperature: above 0; towards 0 the order alone counts.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, infinite where the student rules out what the teacher does not.

    Raises:
      ArgumentError: for a temperature that is not above 0, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([2.0, 1.0, 0.0])
      >>> [round(float(rank_pairs(teacher * k, teacher)), 3) for k in (1, 0)]
      [0.0, 0.183]

    Reference: Burges et al., Learning to rank using gradient descent, 2005.
    """
    check_temperature(temperature)
    student, teacher = logit_pair(student, teacher, where)
    gone, out = jnp.isneginf(teacher), jnp.isneginf(student)
    pairs = ~(gone[..., :, None] | gone[..., None, :])

    def above(logits: Array) -> Array:
        """How far class i is above class j."""
        logits = jnp.where(gone | out, 0, logits) / temperature
        return logits[..., :, None] - logits[..., None, :]

    ours, theirs = above(student), above(teacher)
    # p log(p / q) + (1 - p) log((1 - p) / (1 - q)) of sigmoids, with one logarithm a side in place of two.
    terms = jax.nn.sigmoid(theirs) * (theirs - ours) + jax.nn.softplus(ours) - jax.nn.softplus(theirs)
    terms = jnp.where(pairs, terms, 0)  # 0 of a class and itself
    known = jnp.sum(~gone, axis=-1)
    count = jnp.maximum(known * (known - 1), 1).astype(terms.dtype)
    loss = temperature**2 * jnp.sum(terms, axis=(-2, -1)) / count
    return counted(jnp.where(jnp.any(out & ~gone, axis=-1), jnp.inf, loss), where)


def rank_list(student: Array, teacher: Array, *, top: int | None = None, where: Any = None) -> Array:
    r"""Takes how unlikely the teacher's order of classes is by the student's logits, per example.

    :math:`-\sum_{k \le top} \log \frac{\exp s_{\pi_k}}{\sum_{j \ge k} \exp s_{\pi_j}}`, with :math:`\pi` the classes
    from the teacher's highest to its lowest (ListMLE, of the Plackett-Luce model). Equals are in order of their
    index. Not 0 where student and teacher are equal: it falls as the student orders more clearly. No gradient reaches
    the teacher. Computed in float32 or better.

    Args:
      student: ``[..., classes]`` logits.
      teacher: likewise; classes at -inf add nothing.
      top: how many places count; None: all. What comes after them counts as one group that is lower.
      where: ``[...]`` bools; examples at False have a loss of 0. None: all count.

    Returns:
      ``[...]``, in nats, at least 0.

    Raises:
      ArgumentError: for ``top`` below 1, or shapes that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> [round(float(rank_list(jnp.array([k, 0.0]), jnp.array([9.0, 1.0]))), 3) for k in (0.0, 4.0)]
      [0.693, 0.018]

    Reference: Xia et al., Listwise approach to learning to rank, 2008.
    """
    if top is not None and top < 1:
        raise ArgumentError(f"top counts places, at least 1, got {top}")
    student, teacher = logit_pair(student, teacher, where)
    order = jnp.argsort(-teacher, axis=-1, stable=True)
    gone, ranked = (jnp.take_along_axis(x, order, axis=-1) for x in (jnp.isneginf(teacher), student))
    out = ~gone & jnp.isneginf(ranked)
    least = float(jnp.finfo(ranked.dtype).min) / 2  # as good as -inf, but the gradients of what is below it are finite
    floored = jnp.where(gone | out, least, ranked)
    below = jax.lax.cumlogsumexp(floored, axis=floored.ndim - 1, reverse=True)
    places = jnp.where(gone, 0, below - floored)[..., :top]
    loss = jnp.sum(places, axis=-1)
    loss = jnp.where(jnp.any(out[..., :top], axis=-1), jnp.inf, loss)
    return counted(jnp.where(jnp.any(jnp.isnan(teacher), axis=-1), jnp.nan, loss), where)  # sorted last, it would hide
