"""Softmax and divergence of logits in which -inf rules classes out: what has no probability adds nothing."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def log_probabilities(logits: Array, temperature: Any = 1.0) -> Array:
    r"""Takes :math:`\log \mathrm{softmax}(z / T)`, -inf of classes ruled out, also where all of them are.

    Args:
      logits: ``[..., classes]``, in the type to compute in.
      temperature: T, above 0; may be traced.

    Example:
      >>> log_probabilities(jnp.array([[0.0, -jnp.inf], [-jnp.inf, -jnp.inf]])).tolist()
      [[0.0, -inf], [-inf, -inf]]
    """
    gone = jnp.isneginf(logits)
    nothing = jnp.all(gone, axis=-1, keepdims=True)
    # Each `where` has a finite number on the side that is not taken, or its gradient would be 0 times infinity.
    # The divisor is spread out first: by a scalar, some programs divide and others multiply by its inverse.
    divisor = jnp.broadcast_to(jnp.asarray(temperature, logits.dtype), logits.shape)
    softened = jnp.where(gone, logits, jnp.where(gone, 0, logits) / divisor)
    return jnp.where(nothing, -jnp.inf, jax.nn.log_softmax(jnp.where(nothing, 0, softened), axis=-1))


def expected_log(probabilities: Array, log_q: Array) -> Array:
    r"""Sums :math:`p_c \log q_c` over the last axis, with :math:`0 \log 0 = 0`, for values and gradients.

    Args:
      probabilities: ``[..., classes]``.
      log_q: ``[..., classes]``, -inf where q is 0; the sum is -inf where p is not.

    Example:
      >>> expected_log(jnp.array([1.0, 0.0]), jnp.array([-2.0, -jnp.inf])).item()
      -2.0
    """
    possible = probabilities != 0
    return jnp.sum(jnp.where(possible, probabilities * jnp.where(possible, log_q, 0), 0), axis=-1)


def divergence(log_p: Array, log_q: Array) -> Array:
    r"""Sums :math:`p_c (\log p_c - \log q_c)` over the last axis: infinite where q is 0 and p is not.

    Args:
      log_p: ``[..., classes]``, -inf where p is 0.
      log_q: ``[..., classes]``, of the same type.

    Example:
      >>> divergence(jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))).round(4).item()
      0.6930999755859375
    """
    p = jnp.exp(log_p)
    possible = p != 0  # and what is no number shows
    return jnp.sum(jnp.where(possible, p * (jnp.where(possible, log_p, 0) - jnp.where(possible, log_q, 0)), 0), axis=-1)


def log_total(logits: Array) -> Array:
    r"""Takes :math:`\log \sum_c \exp z_c` over the last axis, keeping it: -inf, without a gradient, where all are -inf.

    Args:
      logits: ``[..., classes]``.

    Example:
      >>> log_total(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])).round(4).tolist()
      [[0.6930999755859375], [-inf]]
    """
    nothing = jnp.all(jnp.isneginf(logits), axis=-1, keepdims=True)
    total = jax.nn.logsumexp(jnp.where(nothing, 0, logits), axis=-1, keepdims=True)
    return jnp.where(nothing, -jnp.inf, total)
