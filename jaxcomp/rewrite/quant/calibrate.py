"""Calibration: the grids of what sites read, from batches of data."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, register_pytree_with_keys

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.programs import compiled
from jaxcomp.core.progress import Progress, shows_progress, steps
from jaxcomp.core.types import Grid, Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.held_out import EVERYTHING, KINDS, Examples, examples_of
from jaxcomp.quant.formats import Format
from jaxcomp.quant.ranges import Fit, check_fit, grid_between, histogram, mean_size, mse
from jaxcomp.rewrite.quant.scheme import INT8, Schemes
from jaxcomp.rewrite.quant.targets import Shared, find_targets
from jaxcomp.trace.integer_weights import check_reads_weights
from jaxcomp.trace.ir import Program, Value, trace
from jaxcomp.trace.observer import Observer, observable

Range = tuple[np.ndarray, np.ndarray]
"""The least and the greatest value, ``[...]`` each; the least is at most 0, the greatest at least 0."""


class Ranges(dict[str, Grid]):
    """``{path of the weight: grid}`` of what sites read.

    Attributes:
      skipped: ``{path: why}`` of weights with static inputs that have none, and stay in floating point.
      judging: the grids of the examples that corrections are fitted to, which those that are held out had no part in;
        as the others where they are not known, and once the tree was mapped.
    """

    def __init__(
        self,
        grids: Mapping[str, Grid] | None = None,
        skipped: Mapping[str, str] | None = None,
        judging: Mapping[str, Grid] | None = None,
    ):
        """Takes the grids."""
        super().__init__(grids or {})
        self.skipped, self.judging = dict(skipped or {}), dict(judging or {})


def _flat(ranges: Ranges) -> tuple[list[tuple[DictKey, Grid]], Any]:
    paths = tuple(sorted(ranges))
    return [(DictKey(path), ranges[path]) for path in paths], (paths, tuple(sorted(ranges.skipped.items())))


def _unflat(known: Any, grids: Iterable[Grid]) -> Ranges:
    paths, skipped = known
    return Ranges(dict(zip(paths, grids, strict=True)), dict(skipped))


register_pytree_with_keys(Ranges, _flat, _unflat)


@shows_progress
def calibrate(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    scheme: Schemes = INT8,
    *,
    fit: Fit | None = None,
    momentum: float | None = None,
    bins: int = 2048,
    select: Select | None = None,
    zeros: bool = False,
    progress: Progress = None,
) -> Ranges:
    """Measures the grids of the inputs of quantized sites, from their ranges on data.

    Sites that read one tensor share its grid, and so do all sites of one weight; layers stacked in a scan have a grid
    each. Ranges always take in 0.

    A second call compiles nothing, and costs what running the function on the batches does: once, or twice where
    histograms are needed.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one).
      scheme: of the weights and inputs, as of :func:`quantize`.
      fit: how far grids reach: :func:`jaxcomp.quant.min_max`, :func:`jaxcomp.quant.percentile`,
        :func:`jaxcomp.quant.mse`, :func:`jaxcomp.quant.entropy`, ... of a histogram of all data; None: the whole range
        for 8 bits, least squared error for fewer.
      momentum: of the moving average of the batches' whole ranges, in their order, in [0, 1): in place of ``fit``.
      bins: of the histograms.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      zeros: whether an input that is 0 on all batches has a grid nevertheless, from -1 to 1: for training, in which it
        may not stay so (behind a layer that begins as zeros).
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      ``{path of the weight: grid}``, for every one with static inputs that data can reach: ``ranges`` of
      :func:`quantize`. Weights whose inputs are 0 in all the data are in its ``skipped``: they stay in floating point.
      Its ``judging`` are the grids of three of four examples, with which :func:`round_weights` measures errors on the
      others: what clips unseen data clips those too.

    Raises:
      ArgumentError: for no batch, batches of several shapes, an option out of range, and an input that is not finite
        on the data (the weight is named); RuleError: for a rule that applies to no weight.

    Example:
      >>> layer = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
      >>> ranges = calibrate(layer, {"a": jnp.eye(2), "b": jnp.ones((2, 3))}, [jnp.array([[-2.55, 5.1]])])
      >>> {path: (round(grid.scale.item(), 4), grid.zero_point.item()) for path, grid in ranges.items()}
      {'a': (0.03, -43), 'b': (0.02, -128)}

    Reference: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018; Jacob et al.,
    Quantization and training of neural networks for integer-arithmetic-only inference, 2018 (moving average).
    """
    if momentum is not None and (fit is not None or not 0 <= momentum < 1):
        raise ArgumentError(f"momentum must be in [0, 1) and stand in place of fit; got {momentum!r}, fit={fit!r}")
    check_fit(fit)
    if bins < 2:
        raise ArgumentError(f"a histogram needs at least 2 bins, got {bins!r}")
    params = concrete(params, "calibrate")
    check_reads_weights(apply_fn, "calibrate")
    given = checked_batches(apply_fn, params, batches, select)
    program = trace(apply_fn, params, *given[0])
    targets, within = find_targets(program, scheme, params), observable(program.frame)
    groups = [group for group in targets.shared if within.issuperset(group.values)]
    leaves, examples = [jax.tree.leaves((params, *batch)) for batch in given], examples_of(given)
    reaches = _reaches(program, groups, steps(leaves, progress, "ranges"), examples[0])
    whole = [_checked(group, own, zeros) for group, own in zip(groups, _ranges(reaches, None), strict=True)]
    skipped = {path: ZERO for group, own in zip(groups, whole, strict=True) if own is None for path in group.paths}
    there = [i for i, own in enumerate(whole) if own is not None]
    groups, ends = [groups[i] for i in there], [own for own in whole if own]
    formats = [{path: targets.weights[path].scheme.input_format for path in group.paths} for group in groups]
    fits = {f: fit or (None if momentum is not None else _default_fit(f)) for own in formats for f in own.values()}
    counted = steps(leaves, progress, "histograms")
    counts = _histograms(program, groups, counted, ends, bins, examples[0]) if any(fits.values()) else []

    def grids(of: Sequence[Examples] | None) -> dict[str, Grid]:
        every = _ranges(reaches, of)
        each = [every[i] for i in there]
        seen = [_moving_average(own, momentum) if momentum is not None else _widest(own) for own in each]
        tallies: list[Any] = [_tallied(own, of) for own in counts] or [None] * len(groups)
        return {
            path: _grid(format, fits[format], own, edges, tally)
            for paths, own, edges, tally in zip(formats, seen, ends, tallies, strict=True)
            for path, format in paths.items()
            if zeros or of is None or (own[1] > own[0]).all()
        }

    found = grids(None)
    return Ranges(found, skipped, found | grids(examples))


ZERO = "its inputs are 0 on the data: they have no range"
"""Why a weight stays in floating point."""


def _default_fit(format: Format) -> Fit | None:
    """None: the whole range."""
    if format.kind == "sign":
        return mean_size()
    return None if format.bits == 8 else mse()


def _grid(format: Format, fit: Fit | None, seen: Range, ends: Range, counts: np.ndarray | None) -> Grid:
    """The grid of a range, or of a histogram over all data; of stacked layers, a grid each."""
    low, high = (np.asarray(end, np.float32) for end in seen)
    if fit is None or counts is None:
        return _between(low, high, format)
    first, last = (jnp.asarray(end, jnp.float32) for end in ends)
    edges = jnp.linspace(first.min(), last.max(), counts.shape[-1] + 1)
    rows = jnp.asarray(counts, jnp.float32).reshape(-1, counts.shape[-1])
    lows, highs = _fitted(fit, format, edges, rows)
    return _between(lows.reshape(low.shape), highs.reshape(low.shape), format)


_between = jax.jit(grid_between, static_argnums=2)


@functools.partial(jax.jit, static_argnums=(0, 1))  # compiled once for all layers
def _fitted(fit: Fit, format: Format, edges: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(lambda row: fit(histogram(edges, row), format))(rows)


def _checked(group: Shared, ranges: Sequence[Range], zeros: bool) -> Range | None:
    """The range over all batches; None where it is 0 in all of them, of stacked layers in one, unless that counts."""
    low, high = _widest(ranges)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ArgumentError(
            f"the inputs of {' and '.join(map(repr, group.paths))} are not finite: give batches on which they are, "
            "or a scheme with inputs='dynamic' or None for it"
        )
    return (low, high) if zeros or (high > low).all() else None


def _moving_average(ranges: Sequence[Range], momentum: float) -> Range:
    """``r <- momentum r + (1 - momentum) new``, beginning with the first."""
    (low, high), *rest = ranges
    for new_low, new_high in rest:
        low, high = momentum * low + (1 - momentum) * new_low, momentum * high + (1 - momentum) * new_high
    return low, high


def _widest(ranges: Sequence[Range]) -> Range:
    return np.min([low for low, _ in ranges], 0), np.max([high for _, high in ranges], 0)


def _ranges(reaches: Sequence[Sequence[Any]], of: Sequence[Examples] | None) -> list[list[Range]]:
    """The range of each group in each batch; of examples' parts those to fit to, and batches that have some."""
    found: list[list[Range]] = [[] for _ in reaches[0]]
    for i, batch in enumerate(reaches):
        take = of[i].fitted_kinds if of else EVERYTHING
        for own, group in zip(found, batch, strict=True):
            below, above = (np.max([each[end][..., take].max(-1) for each in group], axis=0) for end in (0, 1))
            if of is None or take[: of[i].size].any():
                own.append((-below, above))
    return found


def _reaches(program: Program, groups: Sequence[Shared], batches: Iterable[Any], examples: Examples) -> list[list[Any]]:
    """How far each value of each group reaches either way, ``[layers ..., kinds of examples]``, in each batch."""

    def reach(x: jax.Array) -> Any:
        x = x.astype(jnp.float32)
        return examples.largest(-x)[:, 0], examples.largest(x)[:, 0]

    observe = _observer(program, groups, [reach] * len(groups), jnp.maximum)
    as_floats = functools.partial(jax.tree.map, lambda end: np.asarray(end, np.float64))
    return [as_floats(observe(batch)) for batch in batches]


def _histograms(
    program: Program,
    groups: Sequence[Shared],
    batches: Iterable[Any],
    ends: Sequence[Range],
    bins: int,
    examples: Examples,
) -> list[list[np.ndarray]]:
    """For each group, by batch, how many values fell into each bin, ``[layers ..., kinds of examples, bins]``."""

    def counter(low: float, high: float) -> Callable[[jax.Array], Any]:
        def count(x: jax.Array) -> Any:
            place = (x.astype(jnp.float32) - low) * (bins / ((high - low) or 1.0))
            place = jnp.clip(place, 0, bins - 1).astype(jnp.int32) + bins * examples.kinds(x.shape)
            return jnp.zeros(KINDS * bins, jnp.int32).at[place.ravel()].add(1).reshape(KINDS, bins)

        return count

    probes = [counter(float(low.min()), float(high.max())) for low, high in ends]
    observe = _observer(program, groups, probes, jnp.add)
    counts: list[list[np.ndarray]] = [[] for _ in groups]
    for batch in batches:
        for own, each in zip(counts, observe(batch), strict=True):
            own.append(np.sum([np.asarray(value, np.int64) for value in each], axis=0))
    return counts


def _tallied(counts: Sequence[np.ndarray], of: Sequence[Examples] | None) -> np.ndarray:
    """Over all batches, and all examples or those to fit to."""
    takes = [own.fitted_kinds for own in of] if of else [EVERYTHING] * len(counts)
    return np.sum([own[..., take, :].sum(-2) for own, take in zip(counts, takes, strict=True)], axis=0)


def _observer(
    program: Program, groups: Sequence[Shared], probes: Sequence[Callable[[Any], Any]], join: Any
) -> Callable[[Any], list[list[Any]]]:
    """A jitted function of a program's leaves: what the probe of each group's values gives."""
    of: dict[Value, Callable[[Any], Any]] = {}
    apart: dict[Value, Any] = {}
    for group, probe in zip(groups, probes, strict=True):
        of |= dict.fromkeys(group.values, probe)
        apart |= dict.fromkeys(group.values, group.scans)
    observe = Observer(program, of, apart, join)
    run = compiled(lambda leaves: observe(leaves)[1])

    def grouped(leaves: Any) -> list[list[Any]]:
        found = dict(zip(of, run(leaves), strict=True))
        return [[found[value] for value in group.values] for group in groups]

    return grouped
