"""Numbers as arguments: what is none is found before it is compared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_number(value: Any) -> bool:
    """Returns whether a value is one real number, of Python, NumPy or JAX, that is known and not NaN.

    Example:
      >>> is_number(2), is_number(jnp.bfloat16(2)), is_number("2"), is_number(True), is_number(float("nan"))
      (True, True, False, False, False)
    """
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        if isinstance(value, jax.core.Tracer) or value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
            return False
        value = np.asarray(value).item()
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def is_whole(value: Any, least: int = 1) -> bool:
    """Returns whether a value is a whole number of at least ``least``.

    Example:
      >>> is_whole(1), is_whole(1.0), is_whole(0), is_whole(0, least=0)
      (True, False, False, True)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)
