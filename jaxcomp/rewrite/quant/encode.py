"""Encoding: parameters as codes, for good or with gradients straight through."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.straight_through import pass_through, with_slope
from jaxcomp.core.types import Grid
from jaxcomp.quant import formats
from jaxcomp.quant.fake import fake_quantize, fit_grid, quantize
from jaxcomp.quant.gradients import Estimator, Slope, members, rounded_levels
from jaxcomp.quant.granularity import grid_shape
from jaxcomp.rewrite.quant.targets import Target
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.packed.leaf import Indices

Grids = Mapping[str, Grid]


def encode(target: Target, leaf: Any, grids: Grids, ranges: Grids) -> Codes:
    """Encodes a parameter.

    Args:
      target: how it is quantized.
      leaf: the parameter.
      grids: by path, the grid of a parameter; where there is none it is fitted.
      ranges: by path, the grid of its sites' inputs.

    Raises:
      ArgumentError: for a grid of another shape; names the parameter.
    """
    grid = _grid(target, leaf, grids)
    format = target.scheme.format
    codes = quantize(leaf, grid, format)
    packed = _packed(target, codes, leaf.dtype, grid, ranges, format.name)
    if target.scheme.inputs is None or not target.scheme.input_format.affine:
        return packed
    whole, _ = formats.to_integers(codes, grid, format)
    summed = tuple(i for i in range(leaf.ndim) if i not in target.features)
    kept = tuple(i for i in target.features if leaf.shape[i] != 1)
    sums = jnp.sum(whole, summed, dtype=jnp.int32).reshape([leaf.shape[i] for i in kept])
    return packed.with_part("sums", sums, kept)


def encode_to_train(
    target: Target,
    leaf: Any,
    grids: Grids,
    ranges: Grids,
    *,
    weights: Estimator | None = None,
    inputs: Estimator | None = None,
    slope: Slope | None = None,
) -> Any:
    """Encodes a parameter as :func:`encode`, with gradients to it where codes are not clipped.

    Its codes are floating-point numbers: whole ones where the format has an integer form.

    Args:
      target, leaf, grids, ranges: as of :func:`encode`. Of a grid that learns, the zero point is a floating-point
        number in the tensor's units.
      weights, inputs: which gradient the step size of the grid receives; None: the grid is constant.
      slope: of the sign of weights of 1 bit; None: 1, if they learn within the scale alone.
    """
    grid, format, real = _grid(target, leaf, grids), target.scheme.format, wide(leaf.dtype)
    if weights is not None:
        return _encode_to_learn(target, leaf, grid, ranges, weights, inputs, slope)
    if grid.block is not None:
        return fake_quantize(leaf, grid, format)
    scale, unit = lax.stop_gradient(grid.scale).astype(real), format.unit or 1.0
    quotient = leaf.astype(real) / scale
    unclipped = formats.encode(quotient, format) + grid.zero_point.astype(real)
    codes = jnp.clip(unclipped, format.bottom, format.top)
    numbers = codes if format.kind == "integer" else formats.decode(codes, format, real) * (1 / unit)
    numbers = pass_through(numbers, jnp.where(unclipped == codes, quotient * (1 / unit), 0))
    if format.kind == "sign" and slope is not None:
        numbers = with_slope(lax.stop_gradient(codes), quotient, lax.stop_gradient(slope(quotient)))
    return _packed(target, numbers, leaf.dtype, Grid(scale * unit, grid.zero_point), ranges, "int8", inputs)


def _encode_to_learn(
    target: Target,
    leaf: Any,
    grid: Grid,
    ranges: Grids,
    weights: Estimator,
    inputs: Estimator | None,
    slope: Slope | None,
) -> Any:
    """The same, with gradients to the weight's grid, divided by the root of the weights that share a scale."""
    format = target.scheme.format
    factor = 1 / math.sqrt(members(leaf, grid) * format.levels[-1])
    levels, own = rounded_levels(leaf, grid, format, estimator=weights, gradient_scale=factor, slope=slope)
    if grid.block is not None:
        return ((levels - own.zero_point) * own.scale).astype(leaf.dtype)
    unit = format.unit or 1.0
    own = Grid(own.scale * unit, own.zero_point)
    return _packed(target, levels * (1 / unit), leaf.dtype, own, ranges, "int8", inputs)


def _grid(target: Target, leaf: Any, grids: Grids) -> Grid:
    """The grid on which a parameter is to stand, of its rank."""
    own, path = target.scheme, target.path
    try:
        given = grids.get(path) or fit_grid(
            lax.stop_gradient(leaf), own.format, target.axes, block=own.block, fit=own.fit
        )
    except ArgumentError as error:
        raise ArgumentError(f"{path!r}: {error}") from None
    shape = jnp.shape(given.scale)
    if given.block is not None:
        if shape != grid_shape(leaf.shape, given.block):
            raise ArgumentError(
                f"the grid of {path!r} in blocks must be of shape {grid_shape(leaf.shape, given.block)}, got {shape}"
            )
        return given
    if len(shape) > leaf.ndim or any(n not in (1, m) for n, m in zip(shape[::-1], leaf.shape[::-1], strict=False)):
        raise ArgumentError(f"the grid of {path!r} must be of shape {leaf.shape}, or 1 along some axes, got {shape}")

    def ranked(part: Any) -> Any:
        return jnp.broadcast_to(part, (1,) * (leaf.ndim - jnp.ndim(part)) + jnp.shape(part))

    return Grid(ranked(given.scale), ranked(given.zero_point))


def _packed(
    target: Target,
    codes: Any,
    dtype: Any,
    grid: Grid,
    ranges: Grids,
    format: str,
    estimator: Estimator | None = None,
) -> Codes:
    """Codes and all that belongs to them, without axes of size 1."""
    own, shape, real = target.scheme, codes.shape, wide(dtype)
    parts = {"codes": codes, "scale": lax.stop_gradient(grid.scale).astype(real)}
    if own.format.affine:
        parts["zero_point"] = grid.zero_point.astype(jnp.int32)
    kept = {key: tuple(i for i, n in enumerate(part.shape) if n != 1) for key, part in parts.items()}
    if grid.block is None:
        names = kept
        parts = {key: part.reshape([part.shape[i] for i in names[key]]) for key, part in parts.items()}
    else:  # numbers of blocks have axes of their own
        names = {key: tuple(range(len(shape), 2 * len(shape))) for key in parts} | {"codes": kept["codes"]}
        parts["codes"] = codes.reshape([shape[i] for i in kept["codes"]])
    if own.inputs == "static":
        _add_inputs(target, shape, ranges, parts, names, real, estimator is not None)
    axes = [(i,) if n != 1 else () for i, n in enumerate(shape)]
    dtypes, site = (jnp.dtype(dtype).name,), own.site
    if own.inputs == "static" and site is not None:
        site = site._replace(estimator=estimator)
    return Codes(
        target.path, parts, list(names.values()), axes, dtypes=dtypes, inputs=site, format=format, block=grid.block
    )


def _add_inputs(
    target: Target,
    shape: tuple[int, ...],
    ranges: Grids,
    parts: dict[str, Any],
    names: dict[str, Indices],
    real: Any,
    learns: bool,
) -> None:
    """Puts the grid of what the sites read beside the codes; one that learns with its gradients."""
    if target.path not in ranges:
        raise ArgumentError(
            f"the range of the inputs of {target.path!r} is not known: give ranges= of "
            "jaxcomp.rewrite.calibrate, or a scheme with inputs='dynamic' or None for it"
        )
    grid, stack = ranges[target.path], tuple(shape[i] for i in target.stack)
    if jnp.shape(grid.scale) not in ((), stack):
        raise ArgumentError(
            f"the grid of the inputs of {target.path!r} must have shape {stack or '()'}, got {jnp.shape(grid.scale)}"
        )
    kept = tuple(i for i in target.stack if shape[i] != 1)
    arrays = {"input_scale": jnp.asarray(grid.scale).astype(real)}
    if target.scheme.input_format.affine:
        offset = learns and jnp.issubdtype(grid.zero_point.dtype, jnp.floating)
        arrays["input_zero_point"] = jnp.asarray(grid.zero_point).astype(real if offset else jnp.int32)
    for key, array in arrays.items():
        own = array if learns else lax.stop_gradient(array)
        parts[key] = jnp.broadcast_to(own, stack).reshape([shape[i] for i in kept])
        names[key] = kept
