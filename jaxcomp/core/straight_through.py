"""The straight-through estimator: one value forward, another's gradient backward."""

from typing import Any

import jax


def pass_through(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Returns ``forward`` exactly, and passes gradients to ``backward`` alone.

    The value is ``stop_gradient(forward) + (backward - stop_gradient(backward))``: the bracket is exactly 0.
    The common spelling ``backward + stop_gradient(forward - backward)`` rounds twice and misses ``forward`` in
    up to one element of eight.

    Args:
      forward: ``[...]``, the value.
      backward: ``[...]``, what stands in for it in differentiation; finite.

    Returns:
      ``[...]``, equal to ``forward``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.grad(lambda w: pass_through(jnp.round(w), w) * 3.0)(0.4)
      Array(3., dtype=float32, weak_type=True)

    Reference: Bengio et al., Estimating or propagating gradients through stochastic neurons, 2013.
    """
    return jax.lax.stop_gradient(forward) + (backward - jax.lax.stop_gradient(backward))


@jax.custom_jvp
def with_slope(forward: jax.Array, x: jax.Array, slope: jax.Array | float) -> jax.Array:
    """Returns ``forward`` exactly, and adds to its gradients that of ``slope * x`` in x alone.

    No product is computed forward, whose rounding a compiler could fuse away on one side of a difference.

    Args:
      forward: ``[...]``, the value; its own gradients pass, so stop them if they are not meant.
      x: ``[...]`` of its shape and dtype.
      slope: an array that broadcasts against it; a constant.

    Returns:
      ``[...]``, equal to ``forward``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> jax.grad(lambda w: with_slope(jax.lax.stop_gradient(jnp.sign(w)), w, 0.5))(0.4)
      Array(0.5, dtype=float32, weak_type=True)
    """
    del x, slope
    return forward


@with_slope.defjvp
def _with_slope_jvp(primals: Any, tangents: Any) -> Any:
    forward, _, slope = primals
    of_forward, of_x, _ = tangents
    return forward, of_forward + slope * of_x
