"""Binary weights: the sign and a scale, with the gradients that the literature gives to a sign."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.axes import Axes, usual_size
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.straight_through import with_slope
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Compressor, Grid
from jaxcomp.quant import formats
from jaxcomp.quant.fake import fit_grid, note_of
from jaxcomp.quant.gradients import Slope
from jaxcomp.quant.granularity import check_block, groups, numbers_for
from jaxcomp.quant.ranges import grid_between, mean_of


def clipped(x: Array) -> Array:
    r"""Returns 1 for :math:`|x| \le 1`, else 0: the slope of the clipped straight-through estimator.

    Reference: Hubara et al., Binarized neural networks, 2016.
    """
    return (jnp.abs(x) <= 1).astype(x.dtype)


def approximate_sign(x: Array) -> Array:
    r"""Returns :math:`2 - 2|x|` for :math:`|x| \le 1`, else 0: the slope of a piecewise parabola near the sign.

    Reference: Liu et al., Bi-Real Net, 2018.
    """
    return jnp.maximum(2 - 2 * jnp.abs(x), 0)


def annealed(progress: Any, first: float = 0.1, last: float = 10.0) -> Slope:
    r"""Returns IR-Net's slope, which nears the sign's in training: :math:`k t (1 - \tanh^2(t x))`, k = max(1/t, 1).

    t rises from ``first`` to ``last`` by equal factors: at first every weight learns, at last those about 0 alone.

    Args:
      progress: of training, in [0, 1]; may be traced: ``annealed(step / steps)`` within the training step.
      first, last: t at both ends, positive.

    Raises:
      ArgumentError: unless 0 < first <= last.

    Example:
      >>> [[round(s, 3) for s in annealed(p)(jnp.array([0.0, 1.0])).tolist()] for p in (0, 1)]
      [[1.0, 0.99], [10.0, 0.0]]

    Reference: Qin et al., Forward and backward information retention for accurate binary neural networks, 2020.
    """
    if not 0 < first <= last:
        raise ArgumentError(f"annealed needs 0 < first <= last, got {first!r} and {last!r}")
    t = first * (last / first) ** jnp.clip(progress, 0, 1)

    def slope(x: Array) -> Array:
        power = jnp.exp(-2 * jnp.abs(t * x))  # 1 - tanh**2 would lose all digits far from 0
        return (jnp.maximum(t, 1) * 4 * power / (1 + power) ** 2).astype(x.dtype)

    return slope


def sign(x: Array, slope: Slope = clipped) -> Array:
    """Takes the sign, 0 of 0, with the slope of an estimator. Also for activations.

    Args:
      x: ``[...]`` floating point.
      slope: from x to the slope that gradients are multiplied by.

    Example:
      >>> import jax
      >>> jax.grad(lambda x: sign(x, approximate_sign).sum())(jnp.array([-0.25, 3.0])).tolist()
      [1.5, 0.0]
    """
    return with_slope(lax.stop_gradient(jnp.sign(x)), x, lax.stop_gradient(slope(x)))


@printed
def binary(
    *, axis: Axes = None, block: int | None = None, balanced: bool = False, slope: Slope = clipped
) -> Compressor:
    r"""Shows weights as :math:`\pm s`, s the mean of :math:`|w|` (of what is not 0), as :func:`fake` with 1 bit does.

    Gradients are ``s * slope(w)``: the scale is a constant. A weight of exactly 0 is shown as 0 until training
    moves it: there is no code for it, it is stored as a mask. How it differs from ``fake(1)``: in gradients, and in
    balance.

    Args:
      axis: where each index has a scale of its own, -1: per output channel, as XNOR-Net.
      block: weights of a block: see :func:`fake`.
      balanced: IR-Net: the sign of w less its mean, so that half are negative, and scales that are powers of two: the
        one nearest to the mean of ``abs(w - mean)``, in the weights' own units (the paper's are those of w / deviation,
        which batch norm makes the same). A mean beyond s / 2 counts as s / 2: a view's view is itself. No blocks.
      slope: :func:`clipped`, :func:`approximate_sign`, or any of w.

    Returns:
      A compressor whose state is a :class:`jaxcomp.Grid` per tensor, and its mean if balanced.

    Raises:
      ArgumentError: for blocks of balanced signs.

    Example:
      >>> quant = binary(axis=-1)
      >>> w = jnp.array([[0.5, 1.0], [-1.5, 0.0]])
      >>> quant.apply(w, quant.init(w)).tolist()
      [[1.0, 1.0], [-1.0, 0.0]]

    Reference: Rastegari et al., XNOR-Net, 2016; Qin et al., Forward and backward information retention for accurate
    binary neural networks, 2020.
    """
    format = formats.one_bit()
    check_block(block)
    if balanced:
        if block is not None:
            raise ArgumentError("balanced signs have a mean per tensor or index: use axis, or balanced=False")
        return tensorwise(
            lambda w: _balanced_fit(w, axis),
            lambda w, node: _view(w, node[0], node[1], slope),
            lambda node: note_of(node[0], format),
        )

    def view(w: Array, grid: Grid) -> Array:
        return _view(w, grid, jnp.zeros((), grid.scale.dtype), slope)

    return tensorwise(lambda w: fit_grid(w, format, axis, block=block), view, lambda grid: note_of(grid, format))


def _view(w: Array, grid: Grid, mean: Array, slope: Slope) -> Array:
    scale, _ = numbers_for(w, grid)
    real = w.astype(scale.dtype)
    codes = jnp.where(real == 0, 0, jnp.where(real >= mean, 1, -1)).astype(scale.dtype)
    values = jnp.where(jnp.isnan(real), real, codes * scale)
    slopes = (slope(real) * scale).astype(w.dtype)
    return with_slope(lax.stop_gradient(values.astype(w.dtype)), w, lax.stop_gradient(slopes))


def _balanced_fit(w: Array, axis: Axes) -> tuple[Grid, Array]:
    laid = groups(w.astype(wide(w.dtype)), axis)
    kept = laid.values != 0
    mean = mean_of(laid.values, laid, kept)
    size = mean_of(jnp.abs(laid.values - mean), laid, kept)
    size = jnp.where(size > 0, size, jnp.abs(mean))
    size = jnp.where(size == 0, usual_size(w.shape), size)  # of what is to become of zeros
    power = _nearest_power(jnp.maximum(size, jnp.finfo(size.dtype).tiny))
    return grid_between(-power, power, formats.one_bit()), jnp.clip(mean, -power / 2, power / 2)


def _nearest_power(x: Array) -> Array:
    """``2 ** round(log2(x))``, exactly a power of two: by mantissa and exponent."""
    mantissa, exponent = jnp.frexp(x)
    return formats.two_to_the(jnp.where(mantissa < 2**-0.5, exponent - 1, exponent), x.dtype)
