"""PACT: a learned clip. What lies beyond it moves it, what lies within does not."""

from jax import Array

from jaxcomp.core.axes import Axes
from jaxcomp.core.called import printed
from jaxcomp.core.stacked import Axes as Stacked
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.types import Compressor, Grid
from jaxcomp.quant.formats import Format, as_format
from jaxcomp.quant.gradients import rounded_levels
from jaxcomp.quant.lsq import learned_grids
from jaxcomp.quant.ranges import Fit, min_max


def clip_quantize(x: Array, grid: Grid, bits: int | str | Format, *, gradient_scale: float = 1.0) -> Array:
    r"""Clips to the grid's ends and rounds, with the gradients of clipping: rounding is straight through.

    With the clip :math:`\alpha = p s`, p the largest level: :math:`\partial \hat x/\partial \alpha = \pm 1` beyond
    :math:`\pm\alpha` and 0 within, :math:`\partial \hat x/\partial x` the other way round.

    Args:
      x: ``[...]`` floating point: weights or activations.
      grid: scale s, positive; its zero point does not learn.
      bits: a format, its name, or bits of integers.
      gradient_scale: by which gradients to the scale are multiplied.

    Returns:
      ``[...]`` of x's dtype, exactly on the grid.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = lambda s, x: clip_quantize(x, Grid(s, jnp.zeros(1, jnp.int32)), 4).sum()
      >>> jax.grad(loss)(jnp.array([0.1]), jnp.array([0.3, 0.9, 2.0])).tolist()
      [14.0]

    Reference: Choi et al., PACT: parameterized clipping activation, 2018.
    """
    format = as_format(bits)
    levels, own = rounded_levels(x, grid, format, estimator="pact", gradient_scale=gradient_scale)
    return ((levels - own.zero_point) * own.scale).astype(x.dtype)


@printed
def pact(
    bits: int | str | Format = 4,
    *,
    axis: Axes = None,
    block: int | None = None,
    start: Fit | None = None,
    stacked: Stacked | None = None,
) -> Compressor:
    """Quantizes weights with a trained clip: :func:`clip_quantize`.

    Published with weight decay on the clip. How to train it: :func:`jaxcomp.learned`; ``update`` leaves it alone, as
    :func:`lsq` does.

    Args:
      bits: bits of integers, 1 to 8, or any format.
      axis, block: weights that share a scale: see :func:`fake`.
      start: where ranges begin; None: :func:`min_max`.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is :class:`Steps` per tensor.

    Example:
      >>> import jax.numpy as jnp
      >>> quant = pact(2)
      >>> w = jnp.array([0.5, -2.0, 1.5])
      >>> quant.apply(w, quant.init(w)).tolist()
      [0.0, -2.0, 2.0]

    Reference: Choi et al., PACT: parameterized clipping activation, 2018.
    """
    return layer_by_layer(stacked, learned_grids(as_format(bits), axis, block, start or min_max(), clip_quantize))
