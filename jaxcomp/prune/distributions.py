"""Distributions: how many units of each layer are kept, for a sparsity that all layers are asked for."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcomp.core.counts import fraction_at, kept_count
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.leaves import wide
from jaxcomp.core.meshes import replicated
from jaxcomp.core.rules import ByPath, by_rule, is_rules
from jaxcomp.core.types import Schedule, Step
from jaxcomp.prune.patterns import Axes, reduced


class Layer(NamedTuple):
    """One weight tensor, as a distribution sees it.

    Attributes:
      path: its path string.
      shape: its shape.
      units: how many units its pattern makes of it.
      least: how many of them are kept at least; all of a dense layer's.
      densest: the sparsity at which its pattern keeps ``least``; None: any.
      whole: whether a unit is more than one weight.
      is_dense: whether it is kept as it is, by rule.
      remark: a peculiarity of its units.
    """

    path: str
    shape: tuple[int, ...]
    units: int
    least: int = 0
    densest: float | None = None
    whole: bool = False
    is_dense: bool = False
    remark: str = ""


class Shares(NamedTuple):
    """How many units are kept, group by group.

    Attributes:
      keep: units to keep of each group, integers or traced scalars.
      group: of each layer, the group in which its units are ranked.
    """

    keep: Sequence[Any]
    group: Sequence[int]


class Distribution(NamedTuple):
    """How a sparsity is shared out among layers.

    Attributes:
      name: for errors.
      share: ``(sparsity, layers, step) -> Shares``; the sparsity is a float or a traced scalar.
      compete: whether layers are ranked together.
      scale: ``(scores [...], path) -> scores`` that can be compared between layers; None: as they are.
    """

    name: str
    share: Callable[[Any, Sequence[Layer], Step], Shares]
    compete: bool = False
    scale: Callable[[Array, str], Array] | None = None

    def __repr__(self) -> str:
        return f"<Distribution {self.name}>"


def uniform() -> Distribution:
    """Prunes every layer to the sparsity; the others do not make up for layers that stay dense.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"a": jnp.array([1.0, 2.0, 3.0, 4.0]), "b": jnp.array([5.0, 6.0, 7.0, 8.0])}
      >>> masks = jc.prune.prune(0.5, distribution=uniform()).init(params)
      >>> masks["a"].astype(int).tolist(), masks["b"].astype(int).tolist()
      ([0, 0, 1, 1], [0, 0, 1, 1])
    """

    def share(sparsity: Any, layers: Sequence[Layer], step: Step) -> Shares:
        del step
        return Shares([_kept_of(sparsity, layer) for layer in layers], range(len(layers)))

    return Distribution("uniform", share)


def together(scale: Callable[[Array], Array] | None = None, name: str = "global") -> Distribution:
    """Ranks all units of all layers together, exactly, over shards too; the others make up for dense layers.

    Args:
      scale: ``scores [...] -> scores``, layer by layer, that can be compared between layers; None: as they are.
      name: for errors.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"a": jnp.array([1.0, 2.0, 3.0, 4.0]), "b": jnp.array([5.0, 6.0, 7.0, 8.0])}
      >>> masks = jc.prune.prune(0.5, distribution=together()).init(params)
      >>> masks["a"].astype(int).tolist(), masks["b"].astype(int).tolist()
      ([0, 0, 0, 0], [1, 1, 1, 1])
    """

    def share(sparsity: Any, layers: Sequence[Layer], step: Step) -> Shares:
        del step
        return Shares([_total(sparsity, layers, name)] if layers else [], [0] * len(layers))

    own = None if scale is None else lambda scores, path: scale(scores)
    return Distribution(name, share, compete=True, scale=own)


def lamp() -> Distribution:
    r"""Ranks globally by :math:`s_u^2 / \sum_{v \ge u} s_v^2`: each score's square over those that would outlive it.

    The sum is over the units of a layer that are not smaller. Made for magnitudes. It sorts, as few distributions do:
    25 million weights take seconds on a CPU.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"a": jnp.array([1.0, 2.0, 3.0, 4.0]), "b": jnp.array([5.0, 6.0, 7.0, 8.0])}
      >>> masks = jc.prune.prune(0.5, distribution=lamp()).init(params)
      >>> masks["a"].astype(int).tolist(), masks["b"].astype(int).tolist()
      ([0, 0, 1, 1], [0, 0, 1, 1])

    Reference: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, 2021.
    """
    return together(_lamp, "lamp")


def per_output(axes: Axes = None) -> Distribution:
    """Prunes every output of every layer to the sparsity: the published form of Wanda. Sorts, as :func:`lamp` does.

    Where the outputs of a layer cannot all keep as many, those of the next higher scores keep one more.

    Args:
      axes: the axes that make up one output, those of the reduction, as in :func:`nm`: all but the last unless given,
        of all tensors or by path (:func:`jaxcomp.trace.reduction_axes`; of those left out all but the last).

    Example:
      >>> import jaxcomp as jc
      >>> kernel = jnp.array([[1.0, 9.0], [2.0, 8.0]])  # [in, out]
      >>> jc.prune.prune(0.5, distribution=per_output()).init(kernel).astype(int).tolist()
      [[0, 1], [1, 0]]

    Reference: Sun et al., A simple and effective pruning approach for large language models, 2024.
    """

    def scale(scores: Array, path: str) -> Array:
        own = axes.get(path) if isinstance(axes, Mapping) else axes
        return output_by_output(scores, reduced(scores.ndim, own))

    return uniform()._replace(name="per_output", scale=scale)


def erk(power: float = 1.0) -> Distribution:
    r"""Makes densities proportional to :math:`\sum_i d_i / \prod_i d_i` of a layer's dimensions d (Erdős-Rényi-kernel).

    Layers whose density would exceed 1 are dense, and the others make up for it: the sum over all layers is exactly
    what the sparsity asks for. As it rises, no layer's count rises.

    Args:
      power: of the ratio; 0 is uniform but for rounding.

    Example:
      >>> import jaxcomp as jc
      >>> masks = jc.prune.prune(0.5, distribution=erk()).init({"a": jnp.ones((2, 2)), "b": jnp.ones((8, 8))})
      >>> int(masks["a"].sum()), int(masks["b"].sum())  # 34 of 68
      (4, 30)

    Reference: Evci et al., Rigging the lottery, 2020; Mocanu et al., Scalable training of artificial neural networks
    with adaptive sparse connectivity, 2018.
    """

    def share(sparsity: Any, layers: Sequence[Layer], step: Step) -> Shares:
        del step
        layers = [layer._replace(least=max(layer.least, min(layer.units, 1))) for layer in layers]
        total = _total(sparsity, layers, "erk")
        ratios = [(max(sum(layer.shape), 1) / max(math.prod(layer.shape), 1)) ** power for layer in layers]
        slopes = [layer.units * ratio for layer, ratio in zip(layers, ratios, strict=True)]
        if not layers:
            return Shares([], [])
        keep = fill(total, slopes, [layer.least for layer in layers], [layer.units for layer in layers])
        return Shares(list(keep), range(len(layers)))

    return Distribution("erk", share)


def by_layer(sparsities: ByPath[float | Schedule]) -> Distribution:
    """Gives layers sparsities of their own; the others reach the sparsity that is asked of all.

    Args:
      sparsities: fractions of zeros in [0, 1), or schedules of them: ``[(regex, fraction), ...]``, of which the first
        that matches the whole path counts, or ``{path: fraction}``.

    Raises:
      ArgumentError: for a fraction outside [0, 1).
      RuleError: from the pruner, for a rule that matches nothing, and a path that is none.

    Example:
      >>> import jaxcomp as jc
      >>> params = {"a": jnp.array([1.0, 2.0, 3.0, 4.0]), "b": jnp.array([5.0, 6.0, 7.0, 8.0])}
      >>> masks = jc.prune.prune(0.5, distribution=by_layer({"a": 0.75})).init(params)
      >>> masks["a"].astype(int).tolist(), masks["b"].astype(int).tolist()
      ([0, 0, 0, 1], [0, 0, 1, 1])
    """
    if not isinstance(sparsities, Mapping) and not is_rules(sparsities):
        raise ArgumentError(
            f"sparsities must be [(regex, fraction), ...] or {{path: fraction}}, got {sparsities!r:.80}"
        )
    pairs = list(sparsities.items()) if isinstance(sparsities, Mapping) else list(sparsities)
    checked = [(path, fraction_at(value, f"sparsity of {path!r}", "zeros")) for path, value in pairs]
    asked = dict(checked) if isinstance(sparsities, Mapping) else checked

    def share(sparsity: Any, layers: Sequence[Layer], step: Step) -> Shares:
        found = by_rule(asked, [layer.path for layer in layers])
        own = [found[layer.path](step) if layer.path in found else sparsity for layer in layers]
        return Shares([_kept_of(rate, layer) for rate, layer in zip(own, layers, strict=True)], range(len(layers)))

    return Distribution("by layer", share)


DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    "uniform": uniform,
    "global": together,
    "erk": erk,
    "lamp": lamp,
    "per_output": per_output,
}
"""Distributions by name."""


def _kept_of(sparsity: Any, layer: Layer) -> Any:
    """Counts the units of a layer that a sparsity keeps.

    Args:
      sparsity: a number in [0, 1), or an array, which may be traced.
      layer: the tensor.

    Raises:
      ArgumentError: for a sparsity, given as a number, that whole units cannot express, with the nearest that they can.
    """
    if layer.least == layer.units:
        return layer.units
    if layer.whole and isinstance(sparsity, float):
        _check_expressible(sparsity, layer.units, f"{layer.path!r} of shape {layer.shape} has")
    count = kept_count(sparsity, layer.units)
    if layer.densest is not None:
        count = _at_the_end(sparsity, layer.densest, count, layer.least)
    return max(count, layer.least) if isinstance(count, int) else jnp.maximum(count, jnp.uint32(layer.least))


def _check_expressible(sparsity: float, units: int, whose: str) -> None:
    pruned = round(sparsity * units)
    if sparsity == 0 or 0 < pruned < units:
        return
    nearest = f"0 or {1 / units:g}" if pruned == 0 else f"{1 - 1 / units:g}, or 1, which would empty it"
    raise ArgumentError(
        f"{whose} {units} units to prune, which cannot express a sparsity of {sparsity:g}; the nearest are {nearest}. "
        "Ask for one of these, take smaller units, or keep layers dense (dense=[...])"
    )


def _at_the_end(sparsity: Any, densest: float, count: Any, least: int) -> Any:
    """The least where the sparsity is the pattern's own up to float32, in which 0.7 is less than 0.7."""
    if isinstance(sparsity, float):
        return least if sparsity >= densest - 2.0**-22 else count
    return jnp.where(sparsity >= densest - 2.0**-22, jnp.uint32(least), count)


def _total(sparsity: Any, layers: Sequence[Layer], name: str) -> Any:
    """How many units all layers keep together."""
    units, least = sum(layer.units for layer in layers), sum(layer.least for layer in layers)
    densest = {layer.densest for layer in layers if layer.densest is not None and layer.least < layer.units}
    if units and isinstance(sparsity, float) and any(layer.whole for layer in layers):
        _check_expressible(sparsity, units, f"all layers of the distribution {name!r} have")
    count = kept_count(sparsity, units)
    if densest:
        count = _at_the_end(sparsity, max(densest), count, least)
    if not isinstance(count, int):
        return jnp.maximum(count, jnp.uint32(least))
    if count < least:
        bound = [layer.path for layer in layers if layer.least == layer.units and layer.units]
        raise ArgumentError(
            f"the distribution {name!r} cannot reach a sparsity of {sparsity:g}: {least} of {units} units are kept in "
            f"any case (dense layers: {', '.join(map(repr, bound)) or 'none'}; a minimum for the others), which allows "
            f"{1 - least / units:g} at most. Ask for that, or keep fewer layers dense"
        )
    return count


def fill(total: Any, slopes: Sequence[float], least: Sequence[int], most: Sequence[int]) -> Array:
    r"""Finds counts :math:`k_l = \mathrm{clip}(\mathrm{round}(\epsilon a_l), least, most)` that sum to the total.

    Where the quotas' nearest integers have that sum, they are the counts. What one :math:`\epsilon` leaves over goes to
    the first layers that the next larger one would serve. So no count falls when the total rises, which rounding by
    largest remainders does not promise: masks nest.

    Args:
      total: integer, at least the sum of ``least`` and at most that of ``most``; may be traced.
      slopes: :math:`a_l`, positive.
      least, most: bounds of each count.

    Returns:
      ``[L]`` uint32.

    Example:
      >>> fill(7, [1.0, 1.0, 4.0], [1, 1, 1], [9, 9, 3]).tolist()
      [2, 2, 3]

    Reference: Balinski and Young, Fair representation, 1982: Webster's method.
    """
    bounds = np.asarray(least, np.uint32), np.asarray(most, np.uint32)
    return _fill(jnp.asarray(total, jnp.uint32), np.asarray(slopes, np.float32), *bounds)


@jax.jit
def _fill(total: Array, slopes: Array, least: Array, most: Array) -> Array:
    limit = jnp.minimum(most.astype(jnp.float32), 2.0**32 - 2.0**8)

    def counts(bits: Array) -> Array:
        epsilon = jax.lax.bitcast_convert_type(bits, jnp.float32)
        wanted = jnp.round(jnp.minimum(epsilon * slopes, limit)).astype(jnp.uint32)
        return jnp.clip(wanted, least, most)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        fits = jnp.sum(counts(middle), dtype=jnp.uint32) <= total
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    infinite = jnp.uint32(0x7F800000)
    low, high = jax.lax.fori_loop(0, 32, halve, (jnp.uint32(0), infinite))
    now = counts(low)
    room = jnp.where(jnp.sum(most, dtype=jnp.uint32) <= total, most, counts(high)) - now
    left, before = total - jnp.sum(now, dtype=jnp.uint32), jnp.cumsum(room, dtype=jnp.uint32) - room
    return now + jnp.where(left > before, jnp.minimum(room, left - before), 0)


@functools.partial(jax.jit, static_argnames="axes")
def output_by_output(scores: Array, axes: tuple[int, ...]) -> Array:
    """Scores units anew by their rank within an output: the best of each output first, then the second of each.

    Args:
      scores: of any shape.
      axes: of one output; without any, each weight is an output of its own.

    Returns:
      Float32, of the same shape, no two equal.
    """
    turned = jnp.moveaxis(replicated(scores), axes, tuple(range(len(axes))))
    flat = turned.reshape(math.prod(turned.shape[: len(axes)]), math.prod(turned.shape[len(axes) :]))
    falling = -jnp.where(jnp.isnan(flat), jnp.inf, flat.astype(wide(flat.dtype)))
    rank = jnp.argsort(jnp.argsort(falling, axis=0, stable=True), axis=0)
    order = jnp.lexsort((falling.reshape(-1), rank.reshape(-1)))
    place = jnp.zeros(flat.size, jnp.uint32).at[order].set(jnp.arange(flat.size, 0, -1, dtype=jnp.uint32))
    # Bits of positive floats are in the order of the floats, and so exact beyond 2**24; subnormal ones may count as 0.
    values = jax.lax.bitcast_convert_type(place + jnp.uint32(2**23), jnp.float32)
    return jnp.moveaxis(values.reshape(turned.shape), tuple(range(len(axes))), axes)


@jax.jit
def _lamp(scores: Array) -> Array:
    flat = replicated(scores).astype(wide(scores.dtype)).reshape(-1)
    if not flat.size:
        return scores
    finite = jnp.isfinite(flat)
    largest = jnp.max(jnp.where(finite, jnp.abs(flat), 0))
    squares = jnp.where(finite, jnp.square(flat / jnp.where(largest > 0, largest, 1)), 0)
    squares = jax.lax.optimization_barrier(squares)  # a product fused into the sums below would be rounded otherwise
    order = jnp.argsort(-squares, stable=True)
    sums = jax.lax.cumsum(squares[order])
    over = jnp.zeros_like(sums).at[order].set(sums)
    return jnp.where(finite, squares / jnp.where(over > 0, over, 1), jnp.inf).reshape(scores.shape)
