"""Numbers that are not finite: found outside of jit, counted, and named."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError


def check_finite(
    named: Mapping[str, Any], whose: str = "", why: str = "by which nothing can be ranked or fitted"
) -> None:
    """Refuses numbers that are none.

    Args:
      named: ``{path: array}``. Shapes, tracers, and what is not floating point, are passed over.
      whose: their name, for the error: ``"the gradient of "``.
      why: the consequence: ``"for which ..."``.

    Raises:
      ArgumentError: for NaN and infinity, with the path and how many there are.

    Example:
      >>> check_finite({"w": np.array([1.0, np.nan, np.inf])})
      Traceback (most recent call last):
      ...
      jaxcomp.core.errors.ArgumentError: 'w' holds NaN or infinity, by which nothing can be ranked or fitted: 2 of 3...
    """
    for path, leaf in named.items():
        lost = not_finite(leaf)
        if lost:
            raise ArgumentError(
                f"{whose}{path!r} holds NaN or infinity, {why}: {lost:,} of {np.size(leaf):,} numbers. Mend it first"
            )


def not_finite(leaf: Any) -> int:
    """Counts the numbers of an array that are NaN or infinite; 0 for what has no values yet."""
    return _count(leaf, "isfinite", False)


def not_a_number(leaf: Any) -> int:
    """Counts the numbers of an array that are NaN; 0 for what has no values yet."""
    return _count(leaf, "isnan", True)


def _count(leaf: Any, test: str, bad: bool) -> int:
    if leaf is None or isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
        return 0
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return 0
    remote = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    xp: Any = jnp if remote else np
    return int(xp.sum(getattr(xp, test)(leaf if remote else np.asarray(leaf)) == bad))
