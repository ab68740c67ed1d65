"""Rounders: one layer's weights in, the grid that they stand on and what they become out."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.meshes import replicated
from jaxcomp.core.programs import together
from jaxcomp.core.quadratic import steady
from jaxcomp.core.types import Grid
from jaxcomp.core.units import host_unit
from jaxcomp.observe.evidence import Evidence
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.quant.adaround import adaround
from jaxcomp.quant.fake import fake_quantize, fit_grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.gptq import descend, gptq, order_of
from jaxcomp.quant.granularity import numbers_for
from jaxcomp.quant.ranges import mse, quantized
from jaxcomp.rewrite.quant.targets import Target
from jaxcomp.trace.uses import Use

RoundMethod = Literal["gptq", "adaround", "nearest"]
RATIOS = 24
"""Parts of the whole range that are tried for few bits, from all of it to a fifth."""


class Settings(NamedTuple):
    """How layers are rounded: what :func:`jaxcomp.posttrain.round_weights` was asked for."""

    method: RoundMethod
    correct: bool
    damping: float
    act_order: bool
    sweeps: int
    steps: int


class Solution(NamedTuple):
    """A rounded weight.

    Attributes:
      leaf: of its own shape and dtype.
      grid: on which it stands.
      back: the fraction of its outputs that are rounded to the nearest, as nothing better was found.
    """

    leaf: Any
    grid: Grid
    back: float = 1.0


def nearest(target: Target, leaf: Any, given: Grid | None) -> Solution:
    """A weight rounded to the nearest."""
    own, leaf = target.scheme, replicated(jnp.asarray(leaf))
    if given is not None:
        return Solution(_on_grid(leaf, given, own.format), given)
    fit = functools.partial(fit_grid, bits=own.format, axis=target.axes, block=own.block, fit=own.fit)
    (grid,), finite = together(fit)([(leaf,)])
    grid = grid if finite else fit(leaf)  # which says what is wrong
    return Solution(_on_grid(leaf, grid, own.format), grid)


def least_squares(target: Target, given: Grid | None, method: RoundMethod) -> Target:
    """The target whose nearest is what a method has to be better than: where it may choose a grid, a fitted one."""
    return (
        dataclasses.replace(target, scheme=target.scheme._replace(fit=mse()))
        if _searches(target, given, method)
        else target
    )


def _searches(target: Target, given: Grid | None, method: RoundMethod) -> bool:
    """Whether a method chooses how far grids reach."""
    own = target.scheme
    return method != "nearest" and given is None and own.fit is None and own.format.bits in range(2, 8)


def rounded(
    target: Target, use: Use, leaf: Any, known: Evidence, given: Grid | None, settings: Settings, plain: Solution
) -> Solution:
    """A weight rounded so that, on what flows into its sites, their results stay near what they were.

    What is found on the examples to fit to is kept where it is better than ``plain`` on those that are held out.
    """
    if known.other is None or not known.reaches:
        return plain
    format, search = target.scheme.format, _searches(target, given, settings.method)
    start, own = plain.grid, plain
    if search:
        whole = nearest(target, leaf, given)
        start, mixed = whole.grid, _better(target, use, leaf, known, whole, plain)
        own = plain if mixed is plain else mixed._replace(back=1.0)
    layer, unit = _layer(target, use, leaf, known, start, settings)
    ratios = jnp.asarray(np.linspace(1, 0.2, RATIOS) if search else [1.0], jnp.float32)
    values, ratio = _searched(layer, ratios, format, settings)
    values = np.asarray(values, np.float64) * unit
    grid = start
    if search:
        grid = Grid(start.scale * _in_grid(use, ratio, leaf.shape, target, start), start.zero_point, start.block)
    found = _on_grid(jnp.asarray(unmatrix(use, values, leaf.shape), leaf.dtype), grid, format)
    better = _better(target, use, leaf, known, Solution(found, grid), own, known.least_gain())
    return own if better.back == 1 else better


@functools.partial(jax.jit, static_argnames="format")
def _on_grid(leaf: Any, grid: Grid, format: Format) -> Any:
    return fake_quantize(leaf, grid, format)


class _Layer(NamedTuple):
    """A layer as a matrix, in a unit in which squares neither underflow nor overflow.

    Attributes:
      old: its weights.
      aim: those that, on the inputs as they are now, come nearest to the old outputs.
      moment: of the inputs now, such that it can be inverted.
      scale, zero_point: as they broadcast.
      apart: whether each output has scales of its own.
    """

    old: Array
    aim: Array
    moment: Array
    scale: Array
    zero_point: Array
    apart: Array


def _single(x: Any) -> Array:
    return jnp.asarray(np.asarray(x, np.float32))


def _layer(
    target: Target, use: Use, leaf: Any, known: Evidence, grid: Grid, settings: Settings
) -> tuple[_Layer, float]:
    """A layer, and the unit of its weights, a power of two."""
    old = matrix(use, leaf)
    estimate, aim = known.moment(), old
    if settings.correct and known.corrects:
        far = known.aim(old, estimate, settings.damping)
        aim = old + known.share(old, far, old) * (far - old)
    moment = steady(_single(estimate), settings.damping)
    numbers = [np.broadcast_to(np.asarray(part), leaf.shape) for part in numbers_for(jnp.asarray(leaf), grid)]
    scale, zero_point = (matrix(use, part) for part in numbers)
    unit = host_unit(np.max(np.abs(old), initial=0))
    weights, goal, steps = (_single(part / unit) for part in (old, aim, scale))
    return _Layer(weights, goal, moment, steps, _single(zero_point), jnp.asarray(_apart(target, use, grid))), unit


def _apart(target: Target, use: Use, grid: Grid) -> bool:
    """Whether each of a layer's outputs has scales of its own."""
    names = {name for axis in _own_axes(target, grid) for name in use.home[axis]}
    return names >= {*use.stack, *use.free}


def _own_axes(target: Target, grid: Grid) -> tuple[int, ...]:
    if grid.block is not None:
        return grid.block.axes
    ndim = len(np.shape(grid.scale))
    return tuple(i for i in range(ndim) if np.shape(grid.scale)[i] > 1 or i in target.axes)


def _in_grid(use: Use, ratio: Any, shape: tuple[int, ...], target: Target, grid: Grid) -> Array:
    """What each output's scales are multiplied by, ``[groups, 1, out]``, as it broadcasts against a grid."""
    own = _own_axes(target, grid)
    length = int(np.prod(shape)) // int(np.prod(ratio.shape))
    whole = unmatrix(use, np.broadcast_to(ratio, (ratio.shape[0], length, ratio.shape[2])), shape)
    return jnp.asarray(whole[tuple(slice(None) if i in own else slice(0, 1) for i in range(len(shape)))])


@functools.partial(jax.jit, static_argnames=("format", "settings"))
def _searched(layer: _Layer, ratios: Array, format: Format, settings: Settings) -> tuple[Array, Array]:
    """The best values, and by which part of the range, ``[groups, 1, out]``."""
    kept = layer.old != 0
    order = order_of(layer.moment, settings.act_order) if settings.method == "gptq" else None

    def tried(ratio: Array) -> list[Array]:
        grid = Grid(layer.scale * ratio, layer.zero_point.astype(jnp.int32))
        plain = jnp.where(kept, quantized(layer.old, grid, format), 0)
        return [plain] if order is None else [plain, gptq(layer.aim, order, grid, format, kept)]

    def better(best: tuple[Array, Array, Array], ratio: Array) -> tuple[tuple[Array, Array, Array], None]:
        for values in tried(ratio):
            now = _error(layer, values)
            wins = now < best[0]
            best = jnp.minimum(now, best[0]), jnp.where(wins, values, best[1]), jnp.where(wins, ratio, best[2])
        return best, None

    columns = (len(layer.old), 1, layer.old.shape[2])
    start = jnp.full(columns, jnp.inf, layer.old.dtype), layer.old, jnp.ones(columns, layer.old.dtype)
    (_, values, ratio), _ = lax.scan(better, start, ratios)
    grid = Grid(layer.scale * ratio, layer.zero_point.astype(jnp.int32))
    if settings.method == "adaround":
        learned = adaround(layer.aim, layer.moment, grid, format, kept, steps=settings.steps)
        values = jnp.where(_error(layer, learned) < _error(layer, values), learned, values)
    else:
        values = descend(layer.aim, values, layer.moment, grid, format, kept, sweeps=settings.sweeps)
    return values, ratio


def _error(layer: _Layer, values: Array) -> Array:
    """The squared error of each output, ``[groups, 1, out]``; of all where they share a scale."""
    change = values - layer.aim
    own = jnp.sum(change * jnp.matmul(layer.moment, change, precision="highest"), 1, keepdims=True)
    return jnp.where(layer.apart, own, jnp.broadcast_to(own.sum(), own.shape))


def _better(
    target: Target, use: Use, leaf: Any, known: Evidence, found: Solution, plain: Solution, least: float = 0.0
) -> Solution:
    """The better of two solutions, output by output where each has scales of its own; in float64.

    A solution must be better on what it was fitted to and on what was held out, there by some part over all outputs.
    """
    old, *both = (matrix(use, x) for x in (leaf, found.leaf, plain.leaf))
    held, fit = ([known.error(x, old, held) for x in both] for held in (True, False))
    if not _apart(target, use, found.grid):
        held, fit = ([np.full_like(error, error.sum()) for error in errors] for errors in (held, fit))
    worse = ((held[0] >= held[1]) | (fit[0] >= fit[1]))[:, None]
    if np.where(worse[:, 0], held[1], held[0]).sum() > (1 - least) * held[1].sum():
        return plain
    if not worse.any():
        return found._replace(back=0.0)
    pick = _in_grid(use, worse, leaf.shape, target, found.grid)
    scale, zero_point = (
        jnp.where(pick, getattr(plain.grid, name), getattr(found.grid, name)) for name in ("scale", "zero_point")
    )
    values = jnp.where(pick if found.grid.block is None else _spread(use, worse, leaf.shape), plain.leaf, found.leaf)
    return Solution(values, Grid(scale, zero_point, found.grid.block), float(worse.mean()))


def _spread(use: Use, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    length = int(np.prod(shape)) // int(np.prod(columns.shape))
    return unmatrix(use, np.broadcast_to(columns, (columns.shape[0], length, columns.shape[2])), shape)
