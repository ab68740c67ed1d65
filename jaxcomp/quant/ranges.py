"""Ranges: how far a grid reaches. Values in (weights, activations, or a histogram's), the two ends of a grid out."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.core.reproducible import counted, rounded, steady_sum
from jaxcomp.core.scalars import is_number
from jaxcomp.core.types import Grid
from jaxcomp.core.units import unit
from jaxcomp.quant.formats import Format, decode, encode
from jaxcomp.quant.granularity import ScaleGroups

Fit = Callable[[ScaleGroups, Format], tuple[Array, Array]]
"""``(groups, format) -> (low, high)``, low <= 0 <= high, 1 along the shared axes."""


@dataclass(frozen=True)
class NamedFit:
    """A fit of this module: equal to others of the same options, and stored by name.

    Attributes:
      name: of the function that made it.
      options: its arguments, by name.

    Example:
      >>> mse(50), mse(50) == mse(steps=50)
      (mse(steps=50), True)
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    function: Fit = field(repr=False, compare=False)

    def __call__(self, groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        return self.function(groups, format)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.options)})"


_MAKERS: dict[str, Callable[..., Fit]] = {}


def check_fit(fit: Any, name: str = "fit") -> None:
    """Refuses what is no fit: a name, a number, or a function that makes fits and was not called. None is one.

    Raises:
      ArgumentError: with the ``name`` of the argument, and what came.

    Example:
      >>> check_fit(mse)
      Traceback (most recent call last):
      ...
      jaxcomp.core.errors.ArgumentError: fit must be a range, as jc.quant.mse() is, or None; got jc.quant.mse: call it
    """
    uncalled = next((known for known, maker in _MAKERS.items() if maker is fit), None)
    if uncalled or not (fit is None or callable(fit)):
        came = f"jc.quant.{uncalled}: call it" if uncalled else repr(fit)[:40]
        raise ArgumentError(f"{name} must be a range, as jc.quant.mse() is, or None; got {came}")


def _by_name(maker: Callable[..., Fit]) -> Callable[..., Fit]:
    """Names the fits that a function makes."""
    signature = inspect.signature(maker)

    @functools.wraps(maker)
    def made(*args: Any, **named: Any) -> Fit:
        bound = signature.bind(*args, **named)
        bound.apply_defaults()
        return NamedFit(maker.__name__, tuple(bound.arguments.items()), maker(*args, **named))

    _MAKERS[maker.__name__] = made
    return made


def fit_named(name: str, options: Mapping[str, Any]) -> Fit:
    """Makes the fit of a ``name`` and ``options``, those of a :class:`NamedFit`.

    Raises:
      ArgumentError: for a name that none of them has, and as the function of that name.

    Example:
      >>> fit_named("percentile", {"fraction": 0.99})
      percentile(fraction=0.99)
    """
    if name not in _MAKERS:
        raise ArgumentError(f"no fit is called {name!r}: they are {', '.join(sorted(_MAKERS))}")
    return _MAKERS[name](**options)


@_by_name
def min_max() -> Fit:
    """Fits a range from the smallest to the largest value.

    Example:
      >>> [end.item() for end in min_max()(ScaleGroups(jnp.array([-1.0, 3.0]), (0,)), None)]
      [-1.0, 3.0]
    """

    def fit(groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        del format
        values = _counted(groups)
        low, high = (f(values, axis=groups.shared, keepdims=True, initial=0) for f in (jnp.min, jnp.max))
        return low, high

    return fit


@_by_name
def mse(steps: int = 100) -> Fit:
    r"""Fits the range of least squared error: :math:`\arg\min_r \sum (w - \hat w_r)^2`, r = 1/steps, ..., 1.

    A few large values no longer decide how coarse all others are: the fit for 4 bits and fewer.

    Args:
      steps: ratios that are tried; each is a pass over the values. Of equal ones the largest wins.

    Raises:
      ArgumentError: for fewer than 1 step.

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> groups = ScaleGroups(jnp.array([-0.25, 0.25, 0.5, 1.0, 0.25, -0.25]), (0,))
      >>> [round(end.item(), 4) for end in mse(4)(groups, integer(2))]
      [-0.1875, 0.75]

    Reference: Sung et al., Resiliency of deep neural networks under quantization, 2015; Banner et al., Post-training
    4-bit quantization of convolution networks, 2019.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ArgumentError(f"mse needs a whole number of steps of at least 1, got {steps!r}")

    return lambda groups, format: _least_squares(groups.values, groups.weights, groups.shared, format, steps)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))  # compiled once for all weights of a shape
def _least_squares(
    values: Array, weights: Array | None, shared: tuple[int, ...], format: Format, steps: int
) -> tuple[Array, Array]:
    groups = ScaleGroups(values, shared, weights)
    low, high = min_max()(groups, format)
    size = unit(jnp.maximum(high, -low))  # else the squares of small or large values under- or overflow

    def error(ratio: Array) -> Array:
        off = quantized(values, grid_between(low * ratio, high * ratio, format), format) - values
        return steady_sum(_weighted(jnp.square(off / size), groups), shared)

    def better(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        ratio = jnp.asarray(steps - i).astype(low.dtype) * (1 / steps)
        now = error(ratio)
        return jnp.minimum(now, best[0]), jnp.where(now < best[0], ratio, best[1])

    one = jnp.ones(low.shape, low.dtype)
    _, ratio = lax.fori_loop(1, steps, better, (error(jnp.ones((), low.dtype)), one))
    return low * ratio, high * ratio


@_by_name
def entropy(steps: int = 100) -> Fit:
    r"""Fits the shrunk range of least :math:`\mathrm{KL}(p \| q)` between histogram and levels; for histograms alone.

    p is the histogram, with what lies beyond the range counted to the bins at its ends; q shares out evenly, among its
    bins that are not empty, what each level holds of the histogram within. What q lacks counts as 1e-4 of a bin.

    Args:
      steps: ratios of the whole range that are tried, of which the largest that is best wins. Ranges of fewer bins than
        the format has levels are not.

    Raises:
      ArgumentError: for values that are no :func:`histogram`.

    Reference: Migacz, 8-bit inference with TensorRT, 2017.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ArgumentError(f"entropy needs a whole number of steps of at least 1, got {steps!r}")

    def fit(groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        if groups.weights is None or groups.values.ndim != 1:
            raise ArgumentError("entropy needs a histogram, as calibration makes them of inputs; fit weights with mse")
        values, counts = groups.values, groups.weights
        low, high = min_max()(groups, format)
        number = format.top - format.bottom + 1

        def divergence(ratio: Array) -> Array:
            ends = low * ratio, high * ratio
            grid = grid_between(*ends, format)
            inside = (values >= ends[0]) & (values <= ends[1])
            held = jnp.where(inside, counts, 0)
            shift = grid.zero_point.astype(values.dtype)
            codes = jnp.clip(encode(values / grid.scale, format) + shift, format.bottom, format.top)
            place = codes.astype(jnp.int32) - format.bottom
            full = (held > 0).astype(counts.dtype)
            sums, bins = (jnp.zeros(number, counts.dtype).at[place].add(each) for each in (held, full))
            q = jnp.where(held > 0, (sums / jnp.maximum(bins, 1))[place], 0)
            nearest = jnp.argmax(values >= ends[0]), values.size - 1 - jnp.argmax((values <= ends[1])[::-1])
            p = held.at[nearest[0]].add(jnp.sum(jnp.where(values < ends[0], counts, 0)))
            p = p.at[nearest[1]].add(jnp.sum(jnp.where(values > ends[1], counts, 0)))
            p, q = p / p.sum(), jnp.maximum(q / jnp.maximum(q.sum(), 1), 1e-4 / values.size)
            lost = jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30) / q), 0))
            return jnp.where((jnp.sum(inside) >= number) | (ratio == 1), lost, jnp.inf)

        ratios = jnp.arange(steps, 0, -1, dtype=low.dtype) / steps
        best = ratios[jnp.argmin(lax.map(divergence, ratios))]
        return low * best, high * best

    return fit


@_by_name
def percentile(fraction: float = 0.999) -> Fit:
    """Fits the smallest range that holds at least a fraction of the values; of affine formats, below each end.

    Found by counting, without a sort.

    Args:
      fraction: in (0.5, 1].

    Raises:
      ArgumentError: for a fraction outside (0.5, 1].

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> groups = ScaleGroups(jnp.array([1.0, -2.0, 3.0, 9.0]), (0,))
      >>> [end.item() for end in percentile(0.75)(groups, integer(4))]
      [-3.0, 3.0]

    Reference: McKinstry et al., Discovering low-precision networks close to full-precision networks, 2018.
    """
    if not 0.5 < fraction <= 1:
        raise ArgumentError(f"percentile needs a fraction in (0.5, 1] (0.999, not 99.9), got {fraction!r}")

    def fit(groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        if not format.affine:
            high = _quantile(groups._replace(values=jnp.abs(groups.values)), fraction)
            return -high, high
        high = _quantile(groups, fraction)
        low = -_quantile(groups._replace(values=-groups.values), fraction)
        return jnp.minimum(low, 0), jnp.maximum(high, 0)

    return fit


@_by_name
def mean_size(factor: float = 1.0) -> Fit:
    """Fits a multiple of the mean of ``abs(w)`` over nonzeros: for binary weights the range of least squared error.

    Args:
      factor: of the mean, positive.

    Example:
      >>> [end.item() for end in mean_size()(ScaleGroups(jnp.array([1.0, 0.0, -3.0]), (0,)), None)]
      [-2.0, 2.0]

    Reference: Rastegari et al., XNOR-Net, 2016.
    """

    if not (is_number(factor) and factor > 0):
        raise ArgumentError(f"mean_size needs a factor above 0, got {factor!r}")

    def fit(groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        del format
        high = factor * mean_of(jnp.abs(groups.values), groups, groups.values != 0)
        return -high, high

    return fit


@_by_name
def deviations(number: float = 3.0) -> Fit:
    """Fits a range of standard deviations from the mean, on the farther side: LSQ+'s start of symmetric weights.

    Args:
      number: of standard deviations, positive.

    Reference: Bhalgat et al., LSQ+, 2020.
    """

    if not (is_number(number) and number > 0):
        raise ArgumentError(f"deviations needs a number above 0, got {number!r}")

    def fit(groups: ScaleGroups, format: Format) -> tuple[Array, Array]:
        del format
        everywhere = jnp.ones(groups.values.shape, bool)
        size = unit(jnp.max(jnp.abs(_counted(groups)), axis=groups.shared, keepdims=True, initial=0))
        mean = mean_of(groups.values, groups, everywhere)
        variance = mean_of(jnp.square((groups.values - mean) / size), groups, everywhere)
        spread = rounded(number * size * jnp.sqrt(variance))
        high = jnp.maximum(jnp.abs(mean - spread), jnp.abs(mean + spread))
        return -high, high

    return fit


def mean_of(values: Array, groups: ScaleGroups, where: Array) -> Array:
    """Averages the chosen values of each group, 0 of none; the same bits on every device.

    Args:
      values: in the layout of ``groups``.
      groups: of a tensor.
      where: bool, the values that count.
    """
    chosen = _weighted(where.astype(values.dtype), groups)
    if groups.weights is None:
        count = counted(replicated(where), groups.shared).astype(values.dtype)
    else:
        count = steady_sum(chosen, groups.shared)
    return steady_sum(values * chosen, groups.shared) / jnp.maximum(count, 1)


def grid_between(low: Array, high: Array, format: Format, idle: float = 1.0) -> Grid:
    """Makes the grid whose levels reach from low to high, and always through 0.

    Symmetric: ``scale = max(high, -low) / largest level``, ``zero_point = 0``. Affine: ``scale = (high - low) /
    (top - bottom)``, ``zero_point`` the code nearest to ``bottom - low / scale``. Where both ends are 0 any grid holds
    what there is, and the one from -idle to idle does not clip what it becomes: zeros can learn.

    Args:
      low, high: of one shape, low <= 0 <= high; of activations, a scalar or one per channel.
      format: any.
      idle: how far the grid of nothing but zeros reaches.

    Raises:
      ArgumentError: if an end is not finite; under jit it cannot be seen, and shows in the values.

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> grid = grid_between(jnp.float32(-1), jnp.float32(3), integer(8, symmetric=False))
      >>> round(float(grid.scale), 4), int(grid.zero_point)
      (0.0157, -64)
    """
    for end in (low, high):
        if not isinstance(end, jax.core.Tracer) and not bool(jnp.isfinite(end).all()):
            raise ArgumentError("the range of the values is not finite: they hold NaN or infinity; mend them first")
    nothing, tiny = (low == 0) & (high == 0), jnp.finfo(low.dtype).tiny
    low, high = jnp.where(nothing, -idle, low), jnp.where(nothing, idle, high)
    if not format.affine:
        # jit turns division by a constant into this product
        per_level = 1 / max(format.levels[-1], -format.levels[0])
        scale = jnp.maximum(jnp.maximum(high, -low) * per_level, tiny)
        return Grid(scale, jnp.zeros(scale.shape, jnp.int32))
    halves = high * 0.5 - low * 0.5  # the whole range of large numbers would overflow
    scale = jnp.maximum(halves * (2 / (format.top - format.bottom)), tiny)
    return Grid(scale, (format.bottom + jnp.round(-low / scale)).astype(jnp.int32))


def histogram(edges: Array, counts: Array) -> ScaleGroups:
    """Makes values with weights of a histogram, for any fit: ``fit(histogram(edges, counts), format)``.

    Args:
      edges: ``[bins + 1]``, ascending.
      counts: ``[bins]``. Empty bins do not count, so that the ends may lie anywhere beyond the values.

    Example:
      >>> groups = histogram(jnp.array([-1.0, 1.0, 3.0, 5.0]), jnp.array([1, 5, 0]))
      >>> [end.item() for end in min_max()(groups, None)]
      [0.0, 2.0]
    """
    return ScaleGroups((edges[1:] + edges[:-1]) / 2, (0,), counts.astype(wide(edges.dtype)))


def quantized(values: Array, grid: Grid, format: Format) -> Array:
    """Rounds values to a grid, in the scale's float; no gradient, no cast.

    Args:
      values: ``[...]``.
      grid: its numbers broadcast against the values.
      format: of the codes.
    """
    shift = grid.zero_point.astype(grid.scale.dtype)
    codes = jnp.clip(encode(values / grid.scale, format) + shift, format.bottom, format.top)
    return decode(codes - shift, format, grid.scale.dtype) * grid.scale


def _counted(groups: ScaleGroups) -> Array:
    if groups.weights is None:
        return groups.values
    return jnp.where(groups.weights > 0, groups.values, 0)


def _weighted(values: Array, groups: ScaleGroups) -> Array:
    return values if groups.weights is None else values * groups.weights.astype(values.dtype)


def _quantile(groups: ScaleGroups, fraction: float) -> Array:
    """The smallest value such that at least that fraction of all is no larger: by halving the range of bit patterns."""
    values = replicated(groups.values)
    integers = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    ends = jnp.iinfo(integers)
    if groups.weights is None:
        weights = jnp.ones(values.shape, jnp.int32)
        needed: Any = math.ceil(math.prod(values.shape[a] for a in groups.shared) * fraction - 1e-9)
    else:
        weights = jnp.broadcast_to(groups.weights, values.shape)
        needed = jnp.sum(weights, groups.shared, keepdims=True) * fraction

    def ordered(bits: Array) -> Array:
        return jnp.where(bits < 0, bits ^ ends.max, bits)  # floats order like these; it undoes itself

    keys = ordered(lax.bitcast_convert_type(values, integers))
    total = jnp.sum(weights, groups.shared, keepdims=True)

    def halve(_: Any, span: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = span
        middle = (low & high) + ((low ^ high) >> 1)
        enough = jnp.sum(jnp.where(keys <= middle, weights, 0), groups.shared, keepdims=True) >= needed
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    span = (jnp.full(total.shape, ends.min, integers), jnp.full(total.shape, ends.max, integers))
    _, high = lax.fori_loop(0, ends.bits, halve, span)
    return jnp.where(total > 0, lax.bitcast_convert_type(ordered(high), values.dtype), 0)
