"""Units: common factors taken out before numbers are squared, so that nothing depends on their scale."""

import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def unit(size: Array) -> Array:
    """Returns the power of two just below a size; 1 for 0, infinite, NaN and subnormal sizes.

    Dividing or multiplying by it changes no digit.

    Args:
      size: ``[...]`` float32 or float64, at least 0.

    Example:
      >>> unit(jnp.array([3.0, 0.25, 0.0])).tolist()
      [2.0, 0.25, 1.0]
    """
    bits = jnp.int64 if size.dtype == jnp.float64 else jnp.int32
    digits = jnp.finfo(size.dtype).nmant
    power = lax.bitcast_convert_type((lax.bitcast_convert_type(size, bits) >> digits) << digits, size.dtype)
    return jnp.where((power > 0) & jnp.isfinite(power), power, 1)


def common_unit(arrays: Iterable[Array]) -> Array:
    """Returns the unit of the largest number of several arrays of one precision, in which no square overflows.

    Gradients treat it as a constant.

    Example:
      >>> common_unit([jnp.array([3e-30, -1e-29]), jnp.zeros(2)]).item() == 2.0**-97
      True
    """
    largest = [jnp.max(jnp.abs(each), initial=0) for each in arrays]
    return unit(lax.stop_gradient(functools.reduce(jnp.maximum, largest or [jnp.zeros((), jnp.float32)])))


def host_unit(size: Any) -> float:
    """Returns :func:`unit` of one number on the host, in float64.

    Example:
      >>> host_unit(3e-30) == 2.0**-99, host_unit(0)
      (True, 1.0)
    """
    size = float(size)
    return float(np.ldexp(1.0, int(np.frexp(size)[1]) - 1)) if size > 0 and np.isfinite(size) else 1.0
