"""Fake quantization: weights in floating point that take the values codes with a scale would give."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.axes import Axes, usual_size
from jaxcomp.core.called import printed
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.stacked import Axes as Stacked
from jaxcomp.core.stacked import stacked as layer_by_layer
from jaxcomp.core.straight_through import pass_through
from jaxcomp.core.tensorwise import tensorwise
from jaxcomp.core.types import Block, Compressor, Grid, Note
from jaxcomp.quant.formats import Format, as_format, decode, encode
from jaxcomp.quant.granularity import block_of, check_block, groups, numbers_for, place
from jaxcomp.quant.ranges import Fit, check_fit, grid_between, mean_size, min_max


def code_range(bits: int | str | Format, symmetric: bool = True) -> tuple[int, int]:
    """Returns the least and the greatest code of a format.

    Args:
      bits: a format, its name, or bits of integers, 1 to 8.
      symmetric: of integers: without the least code of two's complement.

    Example:
      >>> code_range(8, symmetric=True), code_range(8, symmetric=False)
      ((-127, 127), (-128, 127))
    """
    format = as_format(bits, symmetric)
    return format.bottom, format.top


def fit_grid(
    w: Array,
    bits: int | str | Format,
    axis: Axes = None,
    symmetric: bool = True,
    *,
    block: int | None = None,
    fit: Fit | None = None,
) -> Grid:
    """Fits the grid that spans a tensor, and always goes through 0: see :func:`jaxcomp.quant.grid_between`.

    Args:
      w: ``[...]`` floating point.
      bits: a format, its name, or bits of integers, 1 to 8.
      axis: the axis or axes along which each index has a scale of its own (-1: per output channel of a Flax
        kernel ``[..., in, out]``); None: one scale for the tensor. A scalar has one scale whatever the axis.
      symmetric: of bits: whether codes lie evenly about 0.
      block: weights that share a scale, of all axes but ``axis`` (-1 if None), flattened; None: no blocks.
      fit: how far the grid reaches; None: :func:`min_max`, of one bit :func:`mean_size`.

    Returns:
      A grid in float32 (float64 for float64 weights), 1 along every axis that shares a scale. Weights that are all 0
      have one for such as layers begin with: they can learn.

    Example:
      >>> import jax.numpy as jnp
      >>> fit_grid(jnp.array([[1.27, 0.0], [-0.5, 2.54]]), bits=8, axis=-1).scale.round(4).tolist()
      [[0.009999999776482582, 0.019999999552965164]]
    """
    format = as_format(bits, symmetric)
    check_fit(fit)
    check_real(w)
    cut = block_of(w.shape, axis, block)
    low, high = (fit or default_fit(format))(groups(w.astype(leaves.wide(w.dtype)), axis, cut), format)
    return placed(grid_between(low, high, format, usual_size(w.shape)), w.shape, cut)


def check_real(w: Any) -> None:
    """Refuses what is no array of real numbers: codes have no imaginary part.

    Raises:
      ArgumentError: with what came.
    """
    if not hasattr(w, "dtype") or jnp.issubdtype(w.dtype, jnp.complexfloating):
        came = f"{w.dtype} of shape {w.shape}" if hasattr(w, "dtype") else type(w).__name__
        raise ArgumentError(f"w must be an array of real numbers, got {came}")


def default_fit(format: Format) -> Fit:
    """Returns the fit of a format where none is given: :func:`mean_size` for one bit, else :func:`min_max`."""
    return mean_size() if format.kind == "sign" else min_max()


def placed(grid: Grid, shape: tuple[int, ...], block: Block | None) -> Grid:
    """Lays a grid of :func:`groups` out as :class:`Grid` has it for a tensor.

    Args:
      grid: scale and zero point ``[groups, 1, ...]``.
      shape: of the tensor.
      block: how it is cut; None: it is not.
    """
    return Grid(place(grid.scale, shape, block), place(grid.zero_point, shape, block), block)


def quantize(w: Array, grid: Grid, bits: int | str | Format, symmetric: bool = True) -> Array:
    """Quantizes an array (:func:`jaxcomp.rewrite.quantize` a function): the codes of its values on a grid.

    Of integers ``clip(round(w / scale) + zero_point)``; halfway between two levels, the even code.

    Args:
      w: ``[...]`` floating point.
      grid: as of :func:`fit_grid`.
      bits: a format, its name, or bits of integers.
      symmetric: as of the grid.

    Returns:
      ``[...]`` int8.

    Example:
      >>> import jax.numpy as jnp
      >>> quantize(jnp.array([0.5, 1.5, -9.0]), Grid(jnp.ones(1), jnp.zeros(1, int)), bits=3).tolist()
      [0, 2, -3]
    """
    format = as_format(bits, symmetric)
    codes, _, _ = _unclipped(w, grid, format)
    return jnp.clip(codes, format.bottom, format.top).astype(jnp.int8)


def dequantize(codes: Array, grid: Grid, dtype: Any = jnp.float32, bits: int | str | Format = 8) -> Array:
    """Computes the numbers that codes stand for: ``level(code - zero_point) * scale``, rounded once to ``dtype``.

    Args:
      codes: ``[...]`` integers.
      grid: of the codes.
      dtype: of the result.
      bits: their format; integers of any bits are alike.

    Example:
      >>> import jax.numpy as jnp
      >>> dequantize(jnp.array([-2, 3], jnp.int8), Grid(jnp.array([0.5]), jnp.array([1]))).tolist()
      [-1.5, 1.0]
    """
    scale, zero_point = numbers_for(codes, grid)
    levels = decode(codes.astype(jnp.int32) - zero_point.astype(jnp.int32), as_format(bits), scale.dtype)
    return (levels * scale).astype(dtype)


def fake_quantize(w: Array, grid: Grid, bits: int | str | Format, symmetric: bool = True) -> Array:
    """Rounds an array to a grid (:func:`jaxcomp.rewrite.fake_quantize` rounds in a function), in its own dtype.

    It is ``dequantize(quantize(w))``, with the straight-through gradient: 1 in range, 0 where clipped.

    Args:
      w: ``[...]`` floating point.
      grid: as of :func:`fit_grid`; no gradient reaches it.
      bits: a format, its name, or bits of integers.
      symmetric: as of the grid.

    Returns:
      ``[...]`` of w's dtype, exactly on the grid.

    Example:
      >>> import jax.numpy as jnp
      >>> fake_quantize(jnp.array([0.26, 0.9]), Grid(jnp.array([0.25]), jnp.array([0])), bits=3).tolist()
      [0.25, 0.75]

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference,
    2018.
    """
    format = as_format(bits, symmetric)
    unclipped, scale, zero_point = _unclipped(w, grid, format)
    codes = jnp.clip(unclipped, format.bottom, format.top)
    steps = (codes - zero_point).astype(jnp.int32)  # integers have no -0.0, for which there is no code
    values = (decode(steps, format, scale.dtype) * scale).astype(w.dtype)
    return pass_through(jnp.where(jnp.isnan(w), w, values), jnp.where(unclipped == codes, w, 0))


@printed
def fake(
    bits: int | str | Format = 8,
    *,
    axis: Axes = None,
    block: int | None = None,
    symmetric: bool = True,
    fit: Fit | None = None,
    stacked: Stacked | None = None,
) -> Compressor:
    """Shows weights as codes of few bits would hold them, with straight-through gradients.

    ``w -> level(code) * scale``; of integers ``(clip(round(w / scale) + zero_point) - zero_point) * scale``. Each
    update fits the grid to the weights; between updates it is fixed, and weights that leave the range are clipped. 0 is
    always on the grid: pruned weights stay pruned. Every floating-point tensor that it is given is quantized: choose
    with :func:`jaxcomp.partition`.

    Args:
      bits: bits of integers, 1 to 8; or a format: :func:`power_of_two`, :func:`apot`, :func:`fp8`, :func:`fp4`,
        :func:`nf4`, or its name.
      axis: the axis or axes along which each index has a scale of its own (-1: per output channel); None: one
        scale per tensor.
      block: weights along the reduction that share a scale: all axes but ``axis`` (here -1 if None; ``()`` for none
        of its own), flattened as hardware contracts them, in convolutions of any kind. A last block that is not full
        holds what is left.
      symmetric: codes evenly about 0, without zero point (weights), or affine (integers of 2 bits and more).
      fit: how far the grid reaches: :func:`min_max` if None (the mean of ``abs(w)`` for one bit), :func:`mse`,
        :func:`percentile`.
      stacked: the axis that counts layers, each a tensor of its own: see :func:`jaxcomp.stacked`.

    Returns:
      A compressor whose state is a :class:`jaxcomp.Grid` per tensor.

    Raises:
      ArgumentError: for bits outside 1 ... 8 or a format that does not exist; from its functions, naming the path, for
        an axis that a tensor lacks, blocks of a tensor without a reduction, or weights that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> int4 = fake(bits=4, axis=-1)
      >>> params = {"kernel": jnp.array([[0.875, 7.0], [-0.3, 1.2]])}
      >>> int4.apply(params, int4.init(params))["kernel"].tolist()
      [[0.875, 7.0], [-0.25, 1.0]]

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference,
    2018.
    """
    format = as_format(bits, symmetric)
    check_block(block)
    check_fit(fit)
    made = tensorwise(
        lambda w: fit_grid(w, format, axis, block=block, fit=fit),
        lambda w, grid: fake_quantize(w, grid, format),
        lambda grid: note_of(grid, format),
    )
    return layer_by_layer(stacked, made)


def note_of(grid: Grid, format: Format) -> Note:
    """Makes the note of a tensor on a ``grid`` with codes of a ``format``."""
    return Note(bits=format.bits, grid=grid, format=format.name)


def _unclipped(w: Array, grid: Grid, format: Format) -> tuple[Array, Array, Array]:
    """Codes before they are clipped, scale, zero point; in the scale's float, as 8 bits of bfloat16 would not do."""
    check_real(w)
    scale, zero_point = numbers_for(w, grid)
    codes = encode(w.astype(scale.dtype) / scale, format) + zero_point
    return codes, scale, zero_point
