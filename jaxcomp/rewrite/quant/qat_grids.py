"""Grids that training moves, as plain trees: what of them is learned, or held as a range."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.core.paths import named_leaves
from jaxcomp.core.types import Block, Grid, Params
from jaxcomp.quant.fake import default_fit, fit_grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.granularity import all_zero
from jaxcomp.quant.ranges import Fit, mse
from jaxcomp.rewrite.quant.targets import Target, Targets

LearnedGrid = dict[str, Any]
"""``"scale"``, and ``"offset"`` if the number that code 0 stands for is learned too."""


def step(grid: Grid, offset: bool) -> LearnedGrid:
    """Returns the learned numbers of a ``grid``: scale, and with ``offset`` the zero point in the tensor's units."""
    learned = {"offset": -grid.zero_point.astype(grid.scale.dtype) * grid.scale} if offset else {}
    return {"scale": grid.scale, **learned}


def grid(step: Mapping[str, Any], block: Block | None = None, shift: int = 0) -> Grid:
    """Makes the grid of learned numbers.

    Args:
      step: scale, of which the sign does not count, and offset, if that is learned.
      block: how the tensor is cut; None: it is not.
      shift: the zero point that is not learned.
    """
    size = jnp.abs(step["scale"])
    scale = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
    return Grid(scale, step["offset"] if "offset" in step else jnp.full(scale.shape, shift, jnp.int32), block)


def grid_of_weight(own: LearnedGrid, weight: Any, target: Target, block: Block | None) -> Grid:
    """Makes the grid of a weight's step; where that is 0, as of weights that began so, one fitted to them now.

    Args:
      own: the step.
      weight: the tensor.
      target: how it is quantized.
      block: how it is cut; None: it is not.
    """
    format, size = target.scheme.format, target.scheme.block
    now = fit_grid(lax.stop_gradient(weight), format, target.axes, block=size, fit=default_fit(format))
    fitted = lax.stop_gradient(step(now, format.affine))
    return grid({key: jnp.where(own["scale"] == 0, fitted[key], number) for key, number in own.items()}, block)


def reach(grid: Grid, format: Format) -> dict[str, Any]:
    """Returns the ends of a ``grid`` with codes of ``format``, ``"low"`` and ``"high"``."""
    zero = grid.zero_point.astype(grid.scale.dtype)
    low, high = ((level - zero) * grid.scale for level in (format.levels[0], format.levels[-1]))
    return {"low": jnp.minimum(low, 0), "high": jnp.maximum(high, 0)}


def of_weights(targets: Targets, params: Params, start: Fit | None) -> dict[str, LearnedGrid]:
    """Fits the steps with which weights begin.

    Args:
      targets: the weights.
      params: parameters.
      start: where ranges begin; None: by the scheme.
    """
    named, found = named_leaves(params), {}
    for path, target in targets.weights.items():
        own = target.scheme
        fit = start or own.fit or _least_error(own.format)
        first = _fitted(named[path], own.format, target.axes, own.block, fit)
        idle = all_zero(named[path], target.axes, own.block)  # nothing shows yet how far they will reach
        found[path] = {key: jnp.where(idle, 0, number) for key, number in step(first, own.format.affine).items()}
    return found


def owners(targets: Targets) -> dict[str, str]:
    """Maps each weight with static inputs to the path that holds their step: the first of its group with its format."""
    found = {}
    for group in targets.shared:
        first: dict[Format, str] = {}
        for path in group.paths:
            found[path] = first.setdefault(targets.weights[path].scheme.input_format, path)
    return found


def unsigned(targets: Targets, grids: Mapping[str, Grid]) -> dict[str, int]:
    """Returns the zero points at the end of their codes: such a range keeps to one side of 0, however its step moves.

    Args:
      targets: the weights.
      grids: of their inputs, by path.
    """
    formats = {path: targets.weights[path].scheme.input_format for path in grids}
    fixed = {path: 0 for path, format in formats.items() if not format.affine}
    ends = {path: format.bottom for path, format in formats.items() if format.affine}
    return fixed | {path: end for path, end in ends.items() if bool((grids[path].zero_point == end).all())}


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))  # layers of one shape compile once
def _fitted(w: Any, format: Format, axes: tuple[int, ...], block: int | None, fit: Fit) -> Grid:
    return fit_grid(w, format, axes, block=block, fit=fit)


@functools.cache
def _least_error(format: Format) -> Fit:
    """The least squared error; of 8 bits and more the whole range."""
    return default_fit(format) if format.kind == "sign" or format.bits >= 8 else mse()
