"""Fake quantisation: weights in floating point that take the values integers with a scale would give."""

from numbers import Integral
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxcomp.core import leaves
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import path_string
from jaxcomp.core.straight_through import straight_through
from jaxcomp.core.types import Compressor, Grid, Note, Params, State, Step


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """The least and the greatest code of two's complement, without the least if they are to lie evenly about 0.

    Example:
      >>> code_range(8, symmetric=True), code_range(8, symmetric=False)
      ((-127, 127), (-128, 127))
    """
    top = 2 ** (bits - 1) - 1
    return (-top if symmetric else -top - 1), top


def fit_grid(w: Array, bits: int, axis: int | tuple[int, ...] | None = None, symmetric: bool = True) -> Grid:
    """The grid that spans a tensor: from its smallest to its largest value, and always through 0.

    Symmetric: ``scale = max|w| / top``, ``zero_point = 0``. Affine: ``scale = (max - min) / (2**bits - 1)`` with
    min <= 0 <= max, ``zero_point`` the code nearest to ``bottom - min / scale``.

    Args:
      w: ``[...]`` floating point.
      bits: 2 to 8.
      axis: the axis or axes along which each index has a scale of its own (-1: per output channel of a Flax
        kernel ``[..., in, out]``); None: one scale for the tensor. A scalar has one scale whatever the axis.
      symmetric: whether codes lie evenly about 0.

    Returns:
      A grid in float32 (float64 for float64 weights), 1 along every axis that shares a scale.

    Example:
      >>> import jax.numpy as jnp
      >>> fit_grid(jnp.array([[1.27, 0.0], [-0.5, 2.54]]), bits=8, axis=-1).scale.round(4).tolist()
      [[0.009999999776482582, 0.019999999552965164]]
    """
    bottom, top = code_range(bits, symmetric)
    real = leaves.wide(w.dtype)
    per_code = 1 / (top if symmetric else top - bottom)  # jit turns division by a constant into this product
    own = _axes(axis, w.ndim)
    shared = tuple(a for a in range(w.ndim) if a not in own)
    w = w.astype(real)
    low, high = (reach(w, axis=shared, keepdims=True, initial=0) for reach in (jnp.min, jnp.max))
    if symmetric:
        scale = jnp.maximum(jnp.maximum(high, -low) * per_code, jnp.finfo(real).tiny)
        return Grid(scale, jnp.zeros(scale.shape, jnp.int32))
    halves = high * 0.5 - low * 0.5  # the whole range of large numbers would overflow
    scale = jnp.maximum(halves * (2 * per_code), jnp.finfo(real).tiny)
    return Grid(scale, (bottom + jnp.round(-low / scale)).astype(jnp.int32))


def quantize(w: Array, grid: Grid, bits: int, symmetric: bool = True) -> Array:
    """Codes: ``clip(round(w / scale) + zero_point)``, halves rounded to even.

    Args:
      w: ``[...]`` floating point.
      grid: as of :func:`fit_grid`.
      bits: 2 to 8.
      symmetric: as of the grid.

    Returns:
      ``[...]`` int8.

    Example:
      >>> import jax.numpy as jnp
      >>> quantize(jnp.array([0.5, 1.5, -9.0]), Grid(jnp.ones(1), jnp.zeros(1, int)), bits=3).tolist()
      [0, 2, -3]
    """
    bottom, top = code_range(bits, symmetric)
    return jnp.clip(_unclipped(w, grid), bottom, top).astype(jnp.int8)


def dequantize(codes: Array, grid: Grid, dtype: Any = jnp.float32) -> Array:
    """The numbers that codes stand for: ``(code - zero_point) * scale``, rounded once to ``dtype``.

    Example:
      >>> import jax.numpy as jnp
      >>> dequantize(jnp.array([-2, 3], jnp.int8), Grid(jnp.array([0.5]), jnp.array([1]))).tolist()
      [-1.5, 1.0]
    """
    return ((codes.astype(jnp.int32) - grid.zero_point).astype(grid.scale.dtype) * grid.scale).astype(dtype)


def fake_quantize(w: Array, grid: Grid, bits: int, symmetric: bool = True) -> Array:
    """``dequantize(quantize(w))`` in w's dtype, with the straight-through gradient: 1 in range, 0 where clipped.

    Args:
      w: ``[...]`` floating point.
      grid: as of :func:`fit_grid`; no gradient reaches it.
      bits: 2 to 8.
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
    bottom, top = code_range(bits, symmetric)
    unclipped = _unclipped(w, grid)
    codes = jnp.clip(unclipped, bottom, top)
    values = dequantize(codes, grid, w.dtype)
    return straight_through(values, jnp.where(unclipped == codes, w, 0))


def fake(bits: int = 8, *, axis: int | tuple[int, ...] | None = None, symmetric: bool = True) -> Compressor:
    """Shows weights as integers of few bits would hold them, with straight-through gradients.

    ``w -> (clip(round(w / scale) + zero_point) - zero_point) * scale``. Each update fits scale and zero point to
    the weights' range; between updates they are fixed, and weights that leave the range are clipped. 0 is always
    on the grid: pruned weights stay pruned. Every floating-point tensor that it is given is quantised: choose
    with :func:`jaxcomp.partition`.

    Args:
      bits: 2 to 8.
      axis: the axis or axes along which each index has a scale of its own (-1: per output channel); None: one
        scale per tensor.
      symmetric: codes evenly about 0, without zero point (weights), or affine.

    Returns:
      A compressor whose state is a :class:`jaxcomp.Grid` per tensor.

    Raises:
      ArgumentError: for bits outside 2 ... 8, or an axis that a tensor lacks (its path is named).

    Example:
      >>> import jax.numpy as jnp
      >>> int4 = fake(bits=4, axis=-1)
      >>> params = {"kernel": jnp.array([[0.875, 7.0], [-0.3, 1.2]])}
      >>> int4.apply(params, int4.init(params))["kernel"].tolist()
      [[0.875, 7.0], [-0.25, 1.0]]

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference,
    2018.
    """
    if not isinstance(bits, Integral) or isinstance(bits, bool) or not 2 <= bits <= 8:
        raise ArgumentError(f"bits must be an integer from 2 to 8, got {bits!r}")
    bits = int(bits)  # a NumPy integer would not go into JSON

    def fit(path: Any, leaf: Array) -> Grid:
        try:
            return fit_grid(leaf, bits, axis, symmetric)
        except ArgumentError as error:
            raise ArgumentError(f"{path_string(path)}: {error}") from None

    def update(params: Params, state: State, step: Step, **extra: Any) -> State:
        del state, step, extra
        return leaves.map_real(fit, params)

    def apply(params: Params, state: State) -> Params:
        return leaves.map_view(lambda leaf, grid: fake_quantize(leaf, grid, bits, symmetric), params, state)

    def describe(params: Params, state: State, step: Step) -> dict[str, Note]:
        del step
        return {
            path: Note(skipped=leaves.NOT_REAL) if leaves.left_out(grid) else Note(bits=bits, grid=grid)
            for path, grid in leaves.named_states(params, state).items()
        }

    return Compressor(lambda params: update(params, None, 0), update, apply, describe)


def _axes(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    """The axes with scales of their own, counted from the front."""
    if axis is None or ndim == 0:
        return set()
    axes = (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -ndim <= a < ndim:
            raise ArgumentError(f"axis {a} has a scale for each index, but the tensor has {ndim} axes")
    return {a % ndim for a in axes}


def _unclipped(w: Array, grid: Grid) -> Array:
    """``round(w / scale) + zero_point`` in the scale's float: 8 bits of bfloat16 would not hold the quotient."""
    return jnp.round(w.astype(grid.scale.dtype) / grid.scale) + grid.zero_point.astype(grid.scale.dtype)
