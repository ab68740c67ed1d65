"""Fractions and the whole numbers that they stand for: the same on the host and in a traced program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Schedule, Step


def kept_count(sparsity: Any, size: int) -> Any:
    """Counts how many of ``size`` elements a sparsity keeps: ``size - round(sparsity * size)``, at least one.

    A Python float is counted in float64. An array, traced or not, is counted in whole 2**-24ths, exactly: float32
    products would be off by several elements of a tensor of 25 million.

    Args:
      sparsity: the fraction of zeros, in [0, 1); an array is clipped to it.
      size: elements of the tensor, below 2**32.

    Returns:
      The count, an int or a uint32 scalar.

    Example:
      >>> kept_count(0.9, 25_000_000)
      2500000
    """
    least = min(size, 1)
    if isinstance(sparsity, float | int):
        return max(size - round(sparsity * size), least)
    steps = jnp.clip(jnp.round(sparsity * 2.0**24), 0, 2**24 - 1).astype(jnp.uint32)
    carry = jnp.uint32(2**23)  # one half, so that the product is rounded
    for byte in size.to_bytes(4, "little"):
        product = steps * jnp.uint32(byte) + carry
        carry = product >> 8
    return jnp.maximum(jnp.uint32(size) - product, jnp.uint32(least))


def fraction_at(fraction: float | Schedule, name: str, of: str) -> Callable[[Step], Any]:
    """Returns a function from a step to the fraction there, checked where it is concrete.

    A constant gives a float, a schedule an array, so that it is counted alike in and outside of jit.

    Args:
      fraction: in [0, 1), or a schedule.
      name: of the argument, for errors.
      of: its whole, for errors: ``"zeros"``.

    Raises:
      ArgumentError: for a fraction outside [0, 1).

    Example:
      >>> fraction_at(0.3, "sparsity", "zeros")(3), float(fraction_at(lambda step: step / 8, "sparsity", "zeros")(3))
      (0.3, 0.375)
    """

    def check(value: Any, what: str) -> None:
        if isinstance(value, str) or np.ndim(value) or value is None or not 0 <= float(value) < 1:
            raise ArgumentError(f"{what} must be a fraction of {of} in [0, 1), got {value!r}")

    def at(step: Step) -> Any:
        if not callable(fraction):
            return float(fraction)
        value = fraction(step)
        if not isinstance(value, jax.core.Tracer):
            check(value, f"the {name} schedule's value at step {step}")
        return jnp.float32(value) if isinstance(value, float | int) else value

    if not callable(fraction):
        check(fraction, name)
    return at
