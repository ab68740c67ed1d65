"""Encoding: parameters as codes, for good or with gradients straight through."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.straight_through import straight_through
from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fit_grid, quantize
from jaxcomp.rewrite.schemes import Target
from jaxcomp.trace.codes import Codes
from jaxcomp.trace.packed import Indices

Grids = Mapping[str, Grid]


def encode(target: Target, leaf: Any, grids: Grids, ranges: Grids, train: bool = False) -> Codes:
    """A parameter as codes.

    Args:
      target: how.
      leaf: the parameter.
      grids: by path, that on which it is to stand; where there is none it is fitted.
      ranges: by path, the grid of what its sites read.
      train: codes are floating-point numbers that pass gradients on to the parameter, where they are not clipped.

    Raises:
      ArgumentError: for a grid of another shape; names the parameter.
    """
    own, path = target.scheme, target.path
    bits, real = int(own.bits), wide(leaf.dtype)
    try:
        grid = grids[path] if path in grids else fit_grid(lax.stop_gradient(leaf), bits, target.axes, own.symmetric)
    except ArgumentError as error:
        raise ArgumentError(f"{path!r}: {error}") from None
    shape = jnp.shape(grid.scale)
    if len(shape) > leaf.ndim or any(n not in (1, m) for n, m in zip(shape[::-1], leaf.shape[::-1], strict=False)):
        raise ArgumentError(f"the grid of {path!r} must be of shape {leaf.shape}, or 1 along some axes, got {shape}")
    grid = Grid(*(jnp.broadcast_to(part, _rank(jnp.shape(part), leaf.ndim)) for part in grid))
    codes = quantize(leaf, grid, bits, own.symmetric)
    if train:
        codes = _with_gradient(leaf, grid, codes.astype(real))
    parts = {"codes": codes, "scale": lax.stop_gradient(grid.scale).astype(real)}
    if not own.symmetric:
        parts["zero_point"] = grid.zero_point.astype(jnp.int32)
    sizes = {key: part.shape for key, part in parts.items()}
    names = {key: tuple(i for i, n in enumerate(shape) if n != 1) for key, shape in sizes.items()}
    parts = {key: part.reshape([n for n in part.shape if n != 1]) for key, part in parts.items()}
    if own.inputs == "static":
        _add_inputs(target, leaf.shape, ranges, parts, names, real)
    axes = [(i,) if n != 1 else () for i, n in enumerate(leaf.shape)]
    dtypes = (jnp.dtype(leaf.dtype).name,)
    return Codes(path, parts, list(names.values()), axes, dtypes=dtypes, inputs=own.site)


def _rank(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return (1,) * (ndim - len(shape)) + shape


def _with_gradient(leaf: Any, grid: Grid, codes: Any) -> Any:
    quotient = leaf.astype(codes.dtype) / lax.stop_gradient(grid.scale).astype(codes.dtype)
    inside = jnp.round(quotient) + grid.zero_point.astype(codes.dtype) == codes
    return straight_through(codes, jnp.where(inside, quotient, 0))


def _add_inputs(
    target: Target,
    shape: tuple[int, ...],
    ranges: Grids,
    parts: dict[str, Any],
    names: dict[str, Indices],
    real: Any,
) -> None:
    """Puts the grid of what the sites read beside the codes."""
    if target.path not in ranges:
        raise ArgumentError(
            f"the range of what {target.path!r} is multiplied by is not known: give ranges= of "
            "jaxcomp.rewrite.calibrate, or a scheme with inputs='dynamic' or None for it"
        )
    grid, stack = ranges[target.path], tuple(shape[i] for i in target.stack)
    if jnp.shape(grid.scale) not in ((), stack):
        raise ArgumentError(
            f"the grid of what {target.path!r} is multiplied by must have shape {stack or '()'}, got "
            f"{jnp.shape(grid.scale)}"
        )
    kept = tuple(i for i in target.stack if shape[i] != 1)
    sizes = [shape[i] for i in kept]
    dtypes = {"input_scale": real, "input_zero_point": jnp.int32}
    for (key, dtype), part in zip(dtypes.items(), grid, strict=True):
        if key == "input_zero_point" and target.scheme.input_symmetric:
            continue
        array = lax.stop_gradient(jnp.asarray(part)).astype(dtype)
        parts[key], names[key] = jnp.broadcast_to(array, stack).reshape(sizes), kept
