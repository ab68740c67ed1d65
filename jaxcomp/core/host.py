"""Work of the host itself, outside of jit, on arrays that a CPU holds: nothing is compiled for it."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxcomp.core.meshes import is_explicit, mesh_is_set


def are_here(values: Iterable[Any]) -> bool:
    """Returns whether numbers can all be looked at where they are: in the memory of a CPU, on no mesh.

    Args:
      values: arrays of JAX and NumPy, and integers.

    Example:
      >>> import jax.numpy as jnp
      >>> are_here([jnp.ones(2), 3])
      True
    """
    return not mesh_is_set() and all(_is_here(value) for value in values)


def put_like(array: np.ndarray, like: Any) -> Array:
    """Makes an array of JAX, where another is.

    Args:
      array: as the host computed it.
      like: the array to follow.

    Example:
      >>> import jax.numpy as jnp
      >>> put_like(np.zeros(1, bool), jnp.ones(1)).tolist()
      [False]
    """
    committed = isinstance(like, jax.Array) and like.committed
    return jax.device_put(array, like.sharding if committed else None)


def _is_here(x: Any) -> bool:
    if not isinstance(x, jax.Array):
        return isinstance(x, int | np.integer | np.ndarray)
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable or is_explicit(x):
        return False
    return [device.platform for device in x.devices()] == ["cpu"]
