"""Ternary weights: -s, 0, s, where what is small against the mean is 0."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxcomp.core.axes import Axes, usual_size
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import spread_like
from jaxcomp.core.scalars import is_number
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor, Grid
from jaxcomp.quant.fake import note_of, placed
from jaxcomp.quant.formats import integer
from jaxcomp.quant.granularity import block_of, check_block, groups, numbers_for, place, spread
from jaxcomp.quant.ranges import grid_between, mean_of


class Thirds(NamedTuple):
    """The state of a ternary tensor.

    Attributes:
      grid: of scale s.
      threshold: above which a weight is not 0; of the grid's shape.
    """

    grid: Grid
    threshold: Array


@printed
def ternary(*, axis: Axes = None, block: int | None = None, threshold: float = 0.7) -> Compressor:
    r"""Shows weights as :math:`s\,\mathrm{sign}(w)` where :math:`|w| > \Delta`, else 0 (TWN).

    :math:`\Delta = 0.7\,\mathrm{mean}|w|`, s the mean of :math:`|w|` beyond it: near the least squared error for normal
    weights. Each update fits both; gradients pass straight through. ``fake(2, fit=mse())`` has the same levels, and
    rounds to the nearest.

    Args:
      axis: where each index has a scale and a threshold of its own.
      block: weights of a block: see :func:`fake`.
      threshold: of the mean, in (0, 1).

    Returns:
      A compressor whose state is :class:`Thirds` per tensor.

    Raises:
      ArgumentError: for a threshold outside (0, 1).

    Example:
      >>> quant = ternary()
      >>> w = jnp.array([0.1, -2.0, 1.0, 0.3])
      >>> quant.apply(w, quant.init(w)).tolist()
      [0.0, -1.5, 1.5, 0.0]

    Reference: Li and Liu, Ternary weight networks, 2016.
    """
    if not (is_number(threshold) and 0 < threshold < 1):
        raise ArgumentError(f"threshold is a part of the mean size, in (0, 1), got {threshold!r}")
    check_block(block)
    format = integer(2)

    def fit(w: Array) -> Thirds:
        cut = block_of(w.shape, axis, block)
        laid = groups(w.astype(wide(w.dtype)), axis, cut)
        size = jnp.abs(laid.values)
        mean = mean_of(size, laid, jnp.ones(size.shape, bool))
        level = threshold * jnp.where(mean == 0, usual_size(w.shape), mean)  # of what is to become of zeros
        scale = jnp.where(mean == 0, usual_size(w.shape), mean_of(size, laid, size > level))
        return Thirds(placed(grid_between(-scale, scale, format), w.shape, cut), place(level, w.shape, cut))

    def view(w: Array, state: Thirds) -> Array:
        scale, _ = numbers_for(w, state.grid)
        level, real = state.threshold, w.astype(scale.dtype)
        if state.grid.block is not None:
            level = spread_like(spread(level, w.shape, state.grid.block), w)
        values = jnp.where(jnp.abs(real) <= level, 0, jnp.sign(real) * scale)
        return pass_through(values.astype(w.dtype), w)

    return tensorwise(fit, view, lambda state: note_of(state.grid, format))
