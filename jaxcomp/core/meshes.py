"""Layouts on a mesh of Explicit axes, where nothing is gathered or spread unasked. Elsewhere these do nothing."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def replicated(x: Any) -> Any:
    """An array that every device holds in full.

    Args:
      x: ``[...]``, on a mesh or not; under other axes than Explicit ones it comes back as it is.

    Example:
      >>> replicated(jnp.arange(3)).tolist()
      [0, 1, 2]
    """
    return jax.reshard(x, PartitionSpec()) if _is_explicit(x) else x


def spread_like(x: Any, like: Any) -> Any:
    """An array broadcast to the shape of another, and laid out like it.

    Args:
      x: ``[...]``, of a shape that broadcasts to that of ``like``.
      like: the array to follow; if its mesh has no Explicit axes, ``x`` comes back as it is.

    Example:
      >>> spread_like(jnp.ones((1, 2)), jnp.ones((3, 2))).shape
      (1, 2)
    """
    if not _is_explicit(like):
        return x
    return jax.reshard(jnp.broadcast_to(x, like.shape), jax.typeof(like).sharding.spec)


def _is_explicit(x: Any) -> bool:
    return isinstance(x, jax.Array) and AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
