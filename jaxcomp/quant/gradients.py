"""The gradients of rounding: to what is rounded, and to the grid that it is rounded to."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.straight_through import with_slope
from jaxcomp.core.types import Grid
from jaxcomp.quant.formats import Format, decode, encode
from jaxcomp.quant.granularity import numbers_for

Estimator = Literal["lsq", "pact"]
"""By whose formulas a grid learns: :func:`jaxcomp.quant.learned_quantize`, :func:`jaxcomp.quant.clip_quantize`."""

Slope = Callable[[Array], Array]
"""The slope that stands in for the sign's: ``x -> [...]``."""


def rounded_levels(
    x: Array,
    grid: Grid,
    format: Format,
    *,
    estimator: Estimator = "lsq",
    gradient_scale: float = 1.0,
    slope: Slope | None = None,
    by_inverse: bool = False,
) -> tuple[Array, Grid]:
    r"""Rounds to levels l and a constant grid: :math:`(l - z) s` is the rounded x, with all its gradients in l.

    So a product of levels whose result is scaled, as integers are run, need pass no gradient on to the grid.

    Args:
      x: ``[...]``.
      grid: scale s, positive; ``zero_point``: a code, or the number in x's units that is to be code 0 and learns.
      format: of the codes.
      estimator: the formulas of the gradients.
      gradient_scale: by which those to the grid are multiplied.
      slope: of a sign, in units of the scale; None: 1 within the scale.
      by_inverse: whether to multiply by 1/s rather than divide by s, which rounds otherwise.

    Returns:
      ``[...]`` in the scale's float, and scale and zero point as they broadcast against them.
    """
    learned_shift = jnp.issubdtype(grid.zero_point.dtype, jnp.floating)
    scale, given = numbers_for(x, grid)
    s, x = lax.stop_gradient(scale), x.astype(scale.dtype)
    real = lax.stop_gradient(-given / scale if learned_shift else given)
    shift = jnp.clip(jnp.round(real), format.bottom, format.top) if learned_shift else real
    y = lax.stop_gradient(x) * (1 / s) if by_inverse else lax.stop_gradient(x) / s
    codes = jnp.clip(encode(y, format) + shift, format.bottom, format.top)
    levels = codes if format.kind in ("integer", "sign") else decode(codes, format, y.dtype)
    if not format.affine:
        levels = jnp.where(levels == 0, 0, levels)  # there is no code for -0.0
    y = y + shift
    low, high = format.levels[0], format.levels[-1]
    if format.kind == "sign" and slope is not None:
        of_x = slope(y)
        of_scale = levels - of_x * y
    else:
        inside = (low <= y) & (y <= high)
        of_x = inside.astype(y.dtype)
        beyond = levels - shift + real if learned_shift else levels - shift
        of_scale = jnp.where(inside, levels - y if estimator == "lsq" else 0, beyond)
    to_grid = gradient_scale / s
    levels = with_slope(levels, x, lax.stop_gradient(of_x / s))
    levels = with_slope(levels, jnp.broadcast_to(scale, y.shape), lax.stop_gradient(of_scale * to_grid))
    if learned_shift:
        levels = with_slope(levels, jnp.broadcast_to(given, y.shape), lax.stop_gradient((1 - of_x) * to_grid))
    return levels, Grid(s, shift)


def members(x: Any, grid: Grid) -> int:
    """Counts the numbers of a tensor ``x`` that share a scale of ``grid``."""
    return max(x.size // max(grid.scale.size, 1), 1)


def settled(grid: Grid, format: Format) -> Grid:
    """Freezes a ``grid`` that learns: the constant one, for codes of ``format``, that it has come to."""
    if not jnp.issubdtype(grid.zero_point.dtype, jnp.floating):
        return grid
    codes = jnp.clip(jnp.round(-grid.zero_point / grid.scale), format.bottom, format.top)
    return Grid(grid.scale, codes.astype(jnp.int32), grid.block)
