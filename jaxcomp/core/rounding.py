"""The same rounding in every program."""

import jax.numpy as jnp
from jax import Array


def rounded(product: Array) -> Array:
    """A product that is rounded before anything is added to it, in every program alike.

    A compiler may fuse product and sum into one rounding, in some programs and not in others. XLA:CPU drops an
    optimization barrier before that (JAX 0.10); a comparison it keeps.

    Args:
      product: ``[...]``, floating-point.

    Example:
      >>> float(rounded(jnp.float32(3) * 2) + 1)
      7.0
    """
    return jnp.where(jnp.isnan(product), jnp.nan, product)
