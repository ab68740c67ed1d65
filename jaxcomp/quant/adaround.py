"""AdaRound: whether each weight is rounded up or down is learned."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format, decode, encode
from jaxcomp.quant.granularity import numbers_for
from jaxcomp.quant.layer import check_layer


def adaround(
    weight: Any,
    moment: Any,
    grid: Grid,
    format: Format,
    kept: Any = True,
    *,
    steps: int = 500,
    learning_rate: float = 0.03,
    strength: float = 1.0,
) -> Array:
    r"""Rounds a layer up or down so that its outputs change least, by gradient descent.

    :math:`\min_v \operatorname{tr} (W - W')^\top H (W - W') + \lambda \sum (1 - |2 h(v) - 1|^\beta)` with
    :math:`W' = \lfloor W \rfloor + h(v) (\lceil W \rceil - \lfloor W \rfloor)`, h a stretched sigmoid in [0, 1], and
    :math:`\beta` falling from 20 to 2. The error is a quadratic form: no data are needed. Where the levels on both
    sides of a weight are one, at the ends of the range, nothing is learned.

    Args:
      weight: W ``[groups, reduction, out]``.
      moment: H ``[groups, reduction, reduction]``, positive definite (``jaxcomp.core.quadratic.damped``).
      grid: its numbers broadcast against the weight.
      format: of the codes.
      kept: where it is False, weights become 0; broadcasts against the weight.
      steps: of Adam.
      learning_rate: Adam's.
      strength: :math:`\lambda`, in units of the error of rounding to the nearest, shared out among the weights.

    Returns:
      ``[groups, reduction, out]``, on the grid.

    Raises:
      ArgumentError: for a layer whose parts do not fit or are no numbers.

    Example:
      >>> unit = Grid(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int))
      >>> alike = jnp.array([[[1.0, 0.9], [0.9, 1.0]]])
      >>> from jaxcomp.quant.formats import integer
      >>> sorted(adaround(jnp.array([[[0.45], [0.4]]]), alike, unit, integer(4)).ravel().tolist())
      [0.0, 1.0]

    Reference: Nagel et al., Up or down? Adaptive rounding for post-training quantization, 2020.
    """
    check_layer(weight, moment, grid, format, kept)
    return _learned(weight, moment, grid, format, kept, steps, learning_rate, strength)


@functools.partial(jax.jit, static_argnames=("format", "steps", "learning_rate", "strength"))
def _learned(
    weight: Any,
    moment: Any,
    grid: Grid,
    format: Format,
    kept: Any,
    steps: int,
    learning_rate: float,
    strength: float,
) -> Array:
    low, high = _neighbors(weight, grid, format)
    nearest = jnp.where(weight - low <= high - weight, low, high)
    kept = jnp.broadcast_to(kept, weight.shape)
    gap = jnp.where(kept, high - low, 0)
    share = jnp.clip((weight - low) / jnp.where(gap > 0, gap, 1), 0.01, 0.99)
    base = jnp.where(kept, low, 0)

    def error(values: Array) -> Array:
        change = values - weight
        return jnp.sum(change * jnp.matmul(moment, change, precision="highest"))

    whole = error(jnp.where(kept, nearest, 0))
    unit = jnp.where(whole > 0, whole, 1)
    warm = steps // 5

    def up(v: Array) -> Array:
        return jnp.clip(1.2 * jax.nn.sigmoid(v) - 0.1, 0, 1)

    def loss(v: Array, step: Array) -> Array:
        done = jnp.clip((step - warm) / max(steps - warm, 1), 0, 1)
        beta = 2 + 9 * (1 + jnp.cos(math.pi * done))
        rounding = jnp.sum(jnp.where(gap > 0, 1 - jnp.abs(2 * up(v) - 1) ** beta, 0))
        return error(base + up(v) * gap) / unit + jnp.where(step >= warm, strength / weight.size, 0) * rounding

    optimizer = optax.adam(learning_rate)

    def step(carry: tuple[Array, optax.OptState], i: Array) -> tuple[tuple[Array, optax.OptState], None]:
        v, state = carry
        slope = jax.grad(loss)(v, i)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to a whole number of steps
            changes, state = optimizer.update(slope, state)
        return (v + changes, state), None

    v = jax.scipy.special.logit((share + 0.1) / 1.2)
    (v, _), _ = lax.scan(step, (v, optimizer.init(v)), jnp.arange(steps))
    return jnp.where(kept, jnp.where(up(v) >= 0.5, high, low), 0)


def _neighbors(weight: Array, grid: Grid, format: Format) -> tuple[Array, Array]:
    """The levels below and above each weight, which beyond the ends are one."""
    scale, zero_point = numbers_for(weight, grid)
    x = weight / scale
    codes = jnp.clip(encode(x, format) + zero_point, format.bottom, format.top)
    here = decode(codes - zero_point, format, scale.dtype)
    if format.kind == "sign":
        return jnp.broadcast_to(-scale, weight.shape), jnp.broadcast_to(scale, weight.shape)
    side = jnp.where(x >= here, 1, -1)
    others = jnp.clip(codes + side, format.bottom, format.top)
    there = decode(others - zero_point, format, scale.dtype)
    return jnp.minimum(here, there) * scale, jnp.maximum(here, there) * scale
