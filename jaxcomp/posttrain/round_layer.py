"""Rounders: one layer's weights in, the grid that they stand on and what they become out."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.axes import own_axes, usual_size
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import beside, is_explicit, replicated
from jaxcomp.core.programs import compiled
from jaxcomp.core.types import Grid
from jaxcomp.core.units import host_unit
from jaxcomp.observe.evidence import Evidence
from jaxcomp.observe.matrices import matrix, unmatrix
from jaxcomp.posttrain.round_priced import Coder, Rate, priced, shortened
from jaxcomp.posttrain.round_reach import searched
from jaxcomp.quant.adaround import adaround
from jaxcomp.quant.fake import fit_grid
from jaxcomp.quant.formats import Format
from jaxcomp.quant.gptq import descend
from jaxcomp.quant.granularity import spread
from jaxcomp.quant.padded import between, on_grid
from jaxcomp.quant.ranges import mse
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
    rate: Rate | None = None


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
    """Rounds a weight ``leaf`` to the nearest, on a ``given`` grid or on the one that the ``target`` fits."""
    if given is None:
        (given,) = fitted([target], [leaf])
    return Solution(_on_grid(leaf, leaf, given, target.scheme.format), given)


def fitted(targets: Sequence[Target], leaves: Sequence[Any]) -> list[Grid]:
    """Fits the grids of weights by their schemes, in one small program for all of a kind.

    Args:
      targets: how each is quantized.
      leaves: the weights.
    """

    def fit(target: Target, leaf: Any) -> Grid:
        own, axes = target.scheme, target.axes
        run = functools.partial(fit_grid, bits=own.format, axis=axes, block=own.block, fit=own.fit)
        leaf = replicated(jnp.asarray(leaf))
        grid: Grid = _spanned(target, leaf) or compiled(run, key=("fit", own, axes))(leaf)
        # Where one is not finite, that it is fitted outside of jit says so.
        return grid if np.isfinite(np.asarray(grid.scale)).all() else run(leaf)

    return [fit(target, leaf) for target, leaf in zip(targets, leaves, strict=True)]


def _spanned(target: Target, leaf: Any) -> Grid | None:
    """Finds the grid of the whole range, its ends on the host; None for any other."""
    own = target.scheme
    if own.fit or own.block or own.format.kind == "sign" or is_explicit(leaf) or not leaf.is_fully_addressable:
        return None
    axes, values = own_axes(target.axes, leaf.ndim), np.asarray(leaf, wide(leaf.dtype))
    shared = tuple(i for i in range(leaf.ndim) if i not in axes)
    low, high = (end(values, axis=shared, keepdims=True, initial=0) for end in (np.min, np.max))
    return between(low, high, own.format, usual_size(leaf.shape))


def least_squares(target: Target, given: Grid | None, method: RoundMethod) -> Target:
    """Returns the target whose nearest a method has to beat: on a fitted grid where it may choose one.

    Args:
      target: how a weight is quantized.
      given: its grid; None: the method chooses.
      method: by which it is rounded.
    """
    return (
        dataclasses.replace(target, scheme=target.scheme._replace(fit=mse()))
        if searches(target, given, method)
        else target
    )


def searches(target: Target, given: Grid | None, method: RoundMethod, priced: bool = False) -> bool:
    """Returns whether a method chooses the steps of a grid.

    Args:
      target: how a weight is quantized.
      given: its grid; None: the method chooses.
      method: by which it is rounded.
      priced: whether bits have a price: then the steps of 8 bits are not the finest either.
    """
    own = target.scheme
    fine = range(2, 9) if priced and own.format.kind == "integer" else range(2, 8)
    return method != "nearest" and given is None and own.fit is None and own.format.bits in fine


def rounded(
    target: Target, use: Use, leaf: Any, known: Evidence, whole: Grid, settings: Settings, plain: Solution
) -> Solution:
    """Rounds a weight so that its sites' results change least.

    What is found on the examples to fit to is kept where it is better than ``plain`` on those that are held out.

    Args:
      target: how it is quantized.
      use: the site that reads it.
      leaf: the weight.
      known: statistics of its sites' inputs.
      whole: the grid, or where its reach is searched for, the largest that is tried.
      settings: of the methods.
      plain: the weight rounded to the nearest.
    """
    format, search = target.scheme.format, whole is not plain.grid
    if settings.rate is not None:
        known = known if known.reaches else known.uncorrelated()
        return _priced(target, use, leaf, known, whole, settings, plain if search else None)
    if known.other is None or not known.reaches:
        return plain
    own = near = _judged(use, leaf, known, plain)
    if search:
        widest = _judged(use, leaf, known, Solution(_on_grid(leaf, leaf, whole, format), whole))
        own = _better(target, use, leaf, widest, near)
    layer, inputs, unit = _layer(target, use, leaf, known, whole, settings)
    ratios = np.linspace(1, 0.2, RATIOS) if search else np.ones(1)
    values, ratio = _searched(layer, inputs, ratios.astype(np.float32), format, settings)
    grid = _reaching(target, use, leaf, whole, ratio) if search else whole
    found = _on_grid(unmatrix(use, values.astype(np.float64) * unit, leaf.shape), leaf, grid, format)
    better = _better(target, use, leaf, _judged(use, leaf, known, Solution(found, grid)), own, known.least_gain())
    if better is own or better.solution.back == 1:
        return plain if own is near else own.solution._replace(back=1.0)
    return better.solution


def _reaching(target: Target, use: Use, leaf: Any, whole: Grid, ratio: np.ndarray) -> Grid:
    """A grid that reaches over parts of another's range, ``[groups, 1, out]``."""
    scale = np.asarray(whole.scale) * _in_grid(use, ratio, leaf.shape, target, whole)
    return Grid(jax.device_put(scale), whole.zero_point, whole.block)


def _priced(
    target: Target, use: Use, leaf: Any, known: Evidence, whole: Grid, settings: Settings, plain: Solution | None
) -> Solution:
    """A weight rounded for a small file, on a grid whose steps are searched for if ``plain`` is there.

    What is found must cost less than the nearest on examples that are held out, too, in errors and in bits; of few
    examples less than what is found for each weight alone, which no chance correlation of inputs leads astray.
    """
    assert settings.rate is not None
    format, old = target.scheme.format, matrix(use, leaf)
    if np.any(np.asarray(whole.zero_point)):
        raise ArgumentError(f"{target.path!r}: a rate needs a symmetric grid: use Scheme(..., symmetric=True)")
    price = settings.rate.prices(target.path, use, old, known)
    coder = Coder(use, leaf.shape, np.asarray(format.levels), format.bottom)

    def solved(own: Evidence, settings: Settings, back: float) -> Solution:
        layer, inputs, unit = _layer(target, use, leaf, own, whole, settings)
        apart = None if plain is None else layer.apart
        values, ratio = priced(layer.aim, layer.numbers(1), inputs, price / unit**2, coder, settings.sweeps, apart)
        grid = whole if plain is None else _reaching(target, use, leaf, whole, ratio)
        if apart:
            grid = grid._replace(scale=jax.device_put(shortened(grid.scale, np.rint)))  # products are an ulp off
        values = unmatrix(use, values.astype(np.float64) * unit, leaf.shape)
        return Solution(_on_grid(values, leaf, grid, format), grid, back)

    def cost(own: Solution) -> float:
        units = matrix(use, np.asarray(own.leaf, np.float64) / _numbers(own.grid, leaf.shape)[0])
        bits = coder.bits(units, coder.lengths(units))
        return float((known.error(matrix(use, own.leaf), old)[:, None] / price + bits).sum())

    found = solved(known, settings, 0.0)
    other = Solution(_on_grid(leaf, leaf, whole, format), whole) if plain is None else plain
    if known.suffices and cost(found) < cost(other):
        return found
    alone = solved(known.uncorrelated(), settings._replace(correct=False), 0.0)
    if known.suffices:
        return min(alone, other, key=cost)
    return found if known.other is not None and cost(found) < (1 - known.least_gain()) * cost(alone) else alone


def _on_grid(values: Any, leaf: Any, grid: Grid, format: Format) -> Any:
    """Values rounded to the nearest, of a leaf's dtype and on its mesh."""
    given = np.asarray(values).astype(leaf.dtype)
    return beside(jax.device_put(on_grid(given, *_numbers(grid, leaf.shape), format)), leaf)


def _numbers(grid: Grid, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the zero point of each number."""
    scale, zero_point = (spread(np.asarray(part), shape, grid.block) for part in (grid.scale, grid.zero_point))
    return np.broadcast_to(scale, shape), np.broadcast_to(zero_point, shape)


class _Layer(NamedTuple):
    """A layer as a matrix ``[groups, n, out]``, float32, in a unit in which squares neither underflow nor overflow.

    Attributes:
      old: its weights.
      aim: the weights that, on the inputs as they are now, come nearest to the old outputs.
      scale, zero_point: of each weight.
      apart: whether each output has scales of its own.
    """

    old: np.ndarray
    aim: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    apart: bool

    def numbers(self, ratio: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scale, zero point and what is kept, of a part of the range."""
        return self.scale * ratio, self.zero_point, self.old != 0


def _layer(
    target: Target, use: Use, leaf: Any, known: Evidence, grid: Grid, settings: Settings
) -> tuple[_Layer, Factored, float]:
    """A layer, what flows into it, and the unit of its weights, a power of two."""
    old = aim = matrix(use, leaf)
    unit = host_unit(np.max(np.abs(old), initial=0))
    inputs = Factored.of(known.moment(), settings.damping, settings.act_order, overwrite=True)
    if settings.correct and known.corrects:
        far = known.aim(old, inputs)
        aim = old + known.share(old, far, old) * (far - old)
    scale, zero_point = (matrix(use, part) for part in _numbers(grid, leaf.shape))
    weights, goal, steps = ((part / unit).astype(np.float32) for part in (old, aim, scale))
    layer = _Layer(weights, goal, steps, zero_point.astype(np.int32), _apart(target, use, grid))
    return layer, inputs, unit


def _apart(target: Target, use: Use, grid: Grid) -> bool:
    """Whether each of a layer's outputs has scales of its own."""
    names = {name for axis in _own_axes(target, grid) for name in use.home[axis]}
    return names >= {*use.stack, *use.free}


def _own_axes(target: Target, grid: Grid) -> tuple[int, ...]:
    if grid.block is not None:
        return grid.block.axes
    ndim = len(np.shape(grid.scale))
    return tuple(i for i in range(ndim) if np.shape(grid.scale)[i] > 1 or i in target.axes)


def _in_grid(use: Use, ratio: Any, shape: tuple[int, ...], target: Target, grid: Grid) -> np.ndarray:
    """Factors of each output's scales, ``[groups, 1, out]``, as they broadcast against a grid."""
    own = _own_axes(target, grid)
    whole = _spread(use, ratio, shape)
    return whole[tuple(slice(None) if i in own else slice(0, 1) for i in range(len(shape)))]


def _searched(
    layer: _Layer, inputs: Factored, ratios: np.ndarray, format: Format, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """The best values, and by which part of the range, ``[groups, 1, out]``."""
    values, ratio = searched(
        layer.old, layer.aim, layer.numbers(1), inputs, ratios, format, settings.method == "gptq", layer.apart
    )
    scale, zero_point, kept = layer.numbers(ratio)
    if settings.method == "adaround":
        grid = Grid(jnp.asarray(scale), jnp.asarray(zero_point))
        learned = np.asarray(adaround(layer.aim, inputs.moment, grid, format, kept, steps=settings.steps))
        wins = np.less(*(_shared(layer, inputs.error(each - layer.aim)) for each in (learned, values)))
        return np.where(wins, learned, values), ratio
    grid = Grid(scale, zero_point)
    return descend(layer.aim, values, inputs.moment, grid, format, kept, sweeps=settings.sweeps), ratio


def _shared(layer: _Layer, errors: np.ndarray) -> np.ndarray:
    """The squared error of each output, ``[groups, 1, out]``; of all where they share a scale."""
    return errors if layer.apart else np.full_like(errors, errors.sum())


class _Judged(NamedTuple):
    """A solution and its mean squared error of each output, ``[groups, out]``, where it is held out and fitted to."""

    solution: Solution
    held: np.ndarray
    fit: np.ndarray


def _judged(use: Use, leaf: Any, known: Evidence, own: Solution) -> _Judged:
    old, new = (matrix(use, x) for x in (leaf, own.leaf))
    return _Judged(own, *(known.error(new, old, held) for held in (True, False)))


def _better(target: Target, use: Use, leaf: Any, found: _Judged, plain: _Judged, least: float = 0.0) -> _Judged:
    """The better of two solutions, output by output where each has scales of its own; in float64.

    A solution must be better on what it was fitted to and on what was held out, there by some part over all outputs.
    """
    both = found.solution, plain.solution
    held, fit = ((getattr(found, name), getattr(plain, name)) for name in ("held", "fit"))
    if _apart(target, use, found.solution.grid):
        worse = (held[0] >= held[1]) | (fit[0] >= fit[1])
    else:
        worse = np.full(held[0].shape, held[0].sum() >= held[1].sum() or fit[0].sum() >= fit[1].sum())
    if np.where(worse, held[1], held[0]).sum() > (1 - least) * held[1].sum():
        return plain
    if not worse.any():
        return found._replace(solution=both[0]._replace(back=0.0))
    columns, errors = worse[:, None], (np.where(worse, one[1], one[0]) for one in (held, fit))
    pick = _in_grid(use, columns, leaf.shape, target, both[0].grid)
    scale, zero_point = (
        jax.device_put(np.where(pick, *(np.asarray(getattr(x.grid, name)) for x in both[::-1])))
        for name in ("scale", "zero_point")
    )
    values = np.where(_spread(use, columns, leaf.shape), *(np.asarray(x.leaf) for x in both[::-1]))
    grid = Grid(scale, zero_point, both[0].grid.block)
    return _Judged(Solution(beside(jax.device_put(values), leaf), grid, float(worse.mean())), *errors)


def _spread(use: Use, columns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    length = int(np.prod(shape)) // int(np.prod(columns.shape))
    return unmatrix(use, np.broadcast_to(columns, (columns.shape[0], length, columns.shape[2])), shape)
