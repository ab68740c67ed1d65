"""Second moments of what flows into sites and of what they compute, over data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.meshes import automatic
from jaxcomp.core.programs import compiled
from jaxcomp.core.scalars import is_whole
from jaxcomp.core.types import Params
from jaxcomp.core.units import host_unit
from jaxcomp.observe.batches import Batches, Select, called, inputs_of, kind_of
from jaxcomp.observe.evidence import Seen, joined
from jaxcomp.observe.held_out import Examples
from jaxcomp.observe.matrices import feature_groups, input_rows, output_rows, reduction
from jaxcomp.observe.row_moments import Moment, gram
from jaxcomp.trace.ir import Program, Value, all_nodes, trace
from jaxcomp.trace.observer import Observer, observable
from jaxcomp.trace.scaled import by_factor, with_factors
from jaxcomp.trace.uses import Use, Uses, uses_of

WIDEST = 8192
"""Sites with more features than that are not watched: the moments are square."""

End = Literal["inputs", "outputs"]


class Moments(NamedTuple):
    """Statistics of parameters on data.

    Attributes:
      of: the second moments, summed over all places and examples, by path: of results
        ``[stack, features, features]``, of inputs ``[stack x groups, reduction, reduction]``.
      missing: for parameters that sites read, why they have none.
    """

    of: Mapping[str, np.ndarray]
    missing: Mapping[str, str]

    def why_not(self, path: str) -> str:
        """Says why a parameter has no moments; empty if it has."""
        return "" if path in self.of else self.missing.get(path, "no site reads it on the data")


def second_moments(
    apply_fn: Callable[..., Any],
    params: Params,
    data: Iterable[Any],
    of: End = "outputs",
    places: int | None = None,
    select: Select | None = None,
) -> Moments:
    """Sums the second moments at each parameter's sites over batches.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      data: batches, each the tuple of the other arguments, or the single one.
      of: ``"outputs"``: of what the sites compute; ``"inputs"``: of what they multiply the parameter by, of a
        convolution the patches under its window.
      places: of a convolution's inputs, how many places of each result count at most.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Raises:
      ArgumentError: if there is no batch, and for moments that are not finite (the parameter is named).
    """
    params = as_arrays(params)
    sums: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    runs: dict[Any, Any] = {}
    given = data if isinstance(data, Batches) else inputs_of(called(apply_fn, params), data, select, name="data")
    for inputs in given:
        key = kind_of(inputs)
        if key not in runs:
            run, unseen = _observed(apply_fn, params, inputs, of, places)
            runs[key] = run
            missing |= unseen
        for path, moment in runs[key](params, *inputs).items():
            sums[path] = sums.get(path, 0) + moment
    if not runs:
        raise ArgumentError("batches= gave no batch: give at least one (a generator can be read only once)")
    check_finite(sums, f"on the data the {of[:-1]} of ")
    what = "computes" if of == "outputs" else "reads"
    empty = {path for path, moment in sums.items() if not moment.any()}
    missing |= dict.fromkeys(empty, f"what it {what} on the data is 0")
    return Moments({path: moment for path, moment in sums.items() if path not in missing}, missing)


def _observed(
    apply_fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...], of: End, places: int | None
) -> tuple[Callable[..., dict[str, Any]], dict[str, str]]:
    """A function from a batch to its sums, and the reasons why parameters have none."""
    program = trace(apply_fn, params, *inputs)
    known = with_factors(program, uses_of(program), jax.tree.leaves(params))
    uses = {path: own for path, own in known.items() if own.sites}
    missing = {path: why for path, own in uses.items() if (why := unseen(own, program, of))}
    sites = [(path, use) for path, own in uses.items() if path not in missing for use in own.sites]
    observe = summed(program, [use for _, use in sites], of, places)

    def run(params: Params, *inputs: Any) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        for (path, _), moment in zip(sites, observe(jax.tree.leaves((params, *inputs))), strict=True):
            sums[path] = sums.get(path, 0) + moment
        return sums

    return run, missing


Sums = Callable[[Use, Any], Any]
"""``(site, its rows [batch, places, n]) -> sums over places [batch, ...]`` of two more axes."""


def observer(
    program: Program,
    sites: list[Use],
    of: End,
    places: int | None = None,
    sums: Sums | None = None,
    units: Sequence[float] | None = None,
    join: Any = jnp.add,
    power: int = 2,
) -> Callable[[list[Any]], list[Any]]:
    """Makes a function from a program's leaves to the second moment at each site, ``[stack (x groups), n, n]``.

    Several sites may read one value; it is observed once. Where a parameter is multiplied by a number before its site
    reads it, the site's inputs are multiplied by that number in its stead.

    Args:
      program: a traced function.
      sites: where to observe.
      of: ``"inputs"`` or ``"outputs"`` of the sites.
      places: positions of each convolution's result that count at most; None: all.
      sums: what to accumulate at a site from rows ``[batch, positions, n]``; None: their Gram matrix.
      units: a number for each site that its rows are divided by.
      power: the power of the rows with which ``sums`` grow: 2 of squares.
      join: the ``jnp.ufunc`` that joins the sums of several runs of a site.
    """
    sums = sums or (lambda use, rows: gram(rows))
    size = dict(zip(map(id, sites), units or [1.0] * len(sites), strict=True))
    readers: dict[Value, list[Use]] = {}
    for use in sites:
        readers.setdefault(_value(use, of), []).append(use)
    nested = {node: i for i, node in enumerate(all_nodes(program.frame))}
    scans = {
        value: sorted({s for use in own for s in use.scans}, key=nested.__getitem__) for value, own in readers.items()
    }

    if places is not None and not is_whole(places):
        raise ArgumentError(f"places must be a whole number of at least 1, or None for all, got {places!r}")

    def probe(own: list[Use]) -> Callable[[Any], list[Any]]:
        return lambda x: [sums(use, _rows(use, x, of, places) / size[id(use)]) for use in own]

    observe = Observer(program, {value: probe(own) for value, own in readers.items()}, apart=scans, join=join)

    def run(leaves: list[Any]) -> list[Any]:
        found: dict[int, Any] = {}
        for (value, own), seen in zip(readers.items(), observe(leaves)[1], strict=True):
            for use, moment in zip(own, seen, strict=True):
                others = tuple(i for i, scan in enumerate(scans[value]) if scan not in use.scans)
                moment = join.reduce(moment, axis=others) if others else moment
                moment = moment.reshape(-1, *moment.shape[-2:])
                found[id(use)] = by_factor(use, moment, power) if of == "inputs" else moment
        return [found[id(use)] for use in sites]

    return run


def seen_at(
    program: Program, sites: list[Use], batches: Sequence[list[Any]], examples: Sequence[Examples], places: int | None
) -> list[Seen]:
    """Sums what flows into sites over batches, the examples to fit to and those held out apart.

    Args:
      program: a traced function.
      sites: some of it, in loops too.
      batches: the program's leaves, one list a batch.
      examples: the examples of each batch.
      places: of each result of a convolution, how many count at most.
    """
    found: list[list[Seen]] = [[] for _ in sites]
    runs: dict[Examples, Any] = {}
    counts: dict[tuple[int, Examples], tuple[int, int]] = {}
    for leaves, own in zip(batches, examples, strict=True):

        def halves(use: Use, rows: Any, own: Examples = own) -> Any:
            both = own.split_rows(use, rows.shape[1])
            counts[id(use), own] = (len(both.fit), len(both.held))
            return automatic(lambda rows: jnp.concatenate([gram(rows[:, take]) for take in both], 1), rows)

        if own not in runs:
            runs[own] = summed(program, sites, "inputs", places, halves)
        for seen, use, both in zip(found, sites, runs[own](leaves), strict=True):
            pairs = zip(counts[id(use), own], np.split(both, 2, 1), strict=True)
            seen.append(Seen(*(Moment.about_zero(count, half) for count, half in pairs)))
    return [joined(seen) for seen in found]


SMALLEST, LARGEST = 1e-24, 1e30
"""Sums of squares in float32 that are less may have lost what is small beside them; beyond the other they overflow."""


def summed(
    program: Program, sites: list[Use], of: End, places: int | None = None, sums: Sums | None = None
) -> Callable[[list[Any]], list[np.ndarray]]:
    """Makes an :func:`observer` of sums of squares, float64 of any size: in a unit, if float32 does not hold them.

    Args:
      program: a traced function.
      sites: where to observe.
      of: ``"inputs"`` or ``"outputs"`` of the sites.
      places: positions of each convolution's result that count at most; None: all.
      sums: what to accumulate at a site from rows ``[batch, positions, n]``; None: their Gram matrix.
    """
    plain = compiled(observer(program, sites, of, places, sums))
    largest = lambda use, rows: jnp.max(jnp.abs(rows), axis=1, keepdims=True, initial=0).max(-1, keepdims=True)  # noqa: E731
    reach = compiled(observer(program, sites, of, places, largest, join=jnp.maximum, power=0))
    runs: dict[tuple[float, ...], Any] = {}

    def run(leaves: list[Any]) -> list[np.ndarray]:
        found = [np.asarray(own, np.float64) for own in plain(leaves)]
        if all(_held(own) for own in found):
            return found
        units = tuple(host_unit(np.max(own, initial=0)) for own in reach(leaves))
        if units not in runs:
            runs[units] = compiled(observer(program, sites, of, places, sums, units))
        found = [np.asarray(own, np.float64) for own in runs[units](leaves)]
        return [own * size * size for own, size in zip(found, units, strict=True)]

    return run


def _held(own: np.ndarray) -> bool:
    """Whether sums of squares, ``[stack, n, n]``, are such as float32 holds."""
    sizes = np.abs(own).reshape(len(own), -1).max(1, initial=0)
    return bool(((sizes > SMALLEST) & (sizes < LARGEST)).all())


def unseen(uses: Uses, program: Program, of: End, widest: float | None = None) -> str:
    """Says why a parameter that sites read has no moments; empty if it has.

    Args:
      uses: of the parameter.
      program: a traced function.
      of: ``"inputs"`` or ``"outputs"`` of the sites.
      widest: the largest size of a moment that is made; None: any.
    """
    first, widest = uses.sites[0], WIDEST if widest is None else widest
    if any(_reading(use, of) != _reading(first, of) for use in uses.sites):
        return f"its sites {'compute' if of == 'outputs' else 'sum over'} different features"
    if first.is_conv and of == "inputs" and first.node.params["batch_group_count"] > 1:
        return "its batch is in groups"
    if first.size(first.free if of == "outputs" else reduction(first)) > widest:
        return f"more than {widest:,} features"
    reachable = observable(program.frame)
    if any(use.node.outs[0] not in reachable for use in uses.sites):
        return "it is read in a while loop's condition"
    if any(_value(use, of) not in reachable for use in uses.sites):
        return "it is multiplied by a constant"
    return ""


def _reading(use: Use, of: End) -> Any:
    """As what a site reads its parameter: sites that agree have moments that can be added up."""
    return (use.stack, use.free) if of == "outputs" else (use.stack, reduction(use), use.free, feature_groups(use))


def _value(use: Use, of: End) -> Value:
    return use.node.outs[0] if of == "outputs" else use.node.ins[1 - use.side]


def _rows(use: Use, x: Any, of: End, places: int | None) -> Any:
    return output_rows(use, x) if of == "outputs" else input_rows(use, x, places)
