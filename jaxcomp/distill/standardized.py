"""Logit standardization: a wrapper of any loss on logits, which then sees their order and shape but not their size."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.distill.inputs import logit_pair, root


def standardized(loss: Callable[..., Array]) -> Callable[..., Array]:
    r"""Wraps a loss on logits: it sees :math:`z = (z - \mathrm{mean}(z)) / \mathrm{std}(z)` of each example.

    A student of less capacity need not reach the teacher's range of logits. Mean and deviation (of the population, as
    in the paper) are over the classes that are not at -inf; logits that are all alike become 0, without a gradient.

    Args:
      loss: ``(student, teacher, ...) -> loss`` on ``[..., classes]`` logits. Its other arguments pass through. Not
        :func:`soft_and_hard`, whose cross-entropy would see standardized logits, too: add :func:`cross_entropy`
        outside.

    Returns:
      The wrapped loss. The paper has the base temperature 2, so that ``standardized(kl)(s, t, temperature=2.0)`` counts
      9 times, and the labels' cross-entropy 0.1 times.

    Example:
      >>> import jax.numpy as jnp, jaxcomp as jc
      >>> logits = jnp.array([[1.0, 2.0, 4.0]])
      >>> standardized(jc.distill.kl)(3 * logits + 1, logits).round(4).tolist()
      [0.0]

    Reference: Sun et al., Logit standardization in knowledge distillation, 2024.
    """

    @functools.wraps(loss)
    def wrapped(student: Array, teacher: Array, *args: Any, **options: Any) -> Array:
        pair = logit_pair(student, teacher, options.get("where"))  # what does not count has no deviation, either
        return loss(*map(_standardize, pair), *args, **options)

    return wrapped


def _standardize(logits: Array) -> Array:
    """Standardizes the logits ``[..., classes]`` of each example to mean 0 and standard deviation 1; -inf stays."""
    gone = jnp.isneginf(logits)
    count = jnp.maximum(jnp.sum(~gone, axis=-1, keepdims=True), 1).astype(logits.dtype)
    known = jnp.where(gone, 0, logits)
    centered = jnp.where(gone, 0, known - jnp.sum(known, axis=-1, keepdims=True) / count)
    deviation = root(jnp.sum(centered * centered, axis=-1, keepdims=True) / count)
    return jnp.where(gone, -jnp.inf, jnp.where(deviation == 0, 0, centered / jnp.where(deviation == 0, 1, deviation)))
