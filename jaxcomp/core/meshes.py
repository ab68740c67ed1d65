"""Layouts on a mesh of Explicit axes, where nothing is gathered or spread unasked. Elsewhere these do nothing."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec


def replicated(x: Any) -> Any:
    """An array that every device holds in full."""
    return jax.reshard(x, PartitionSpec()) if _is_explicit(x) else x


def spread_like(x: Any, like: Any) -> Any:
    """An array broadcast to the shape of another, and laid out like it."""
    if not _is_explicit(like):
        return x
    return jax.reshard(jnp.broadcast_to(x, like.shape), jax.typeof(like).sharding.spec)


def _is_explicit(x: Any) -> bool:
    return isinstance(x, jax.Array) and AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
