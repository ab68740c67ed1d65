"""Second moments of what flows into sites and of what they compute, over data."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.types import Params
from jaxcomp.rewrite.batches import Batches, Select, called, inputs_of, kind_of
from jaxcomp.rewrite.matrices import feature_groups, input_rows, output_rows, reduction
from jaxcomp.trace.ir import Program, Value, all_nodes, trace
from jaxcomp.trace.observe import Observer, observable
from jaxcomp.trace.scaled import by_factor, with_factors
from jaxcomp.trace.uses import Use, Uses, uses_of

WIDEST = 8192
"""Sites with more features than that are not watched: the moments are square."""

End = Literal["inputs", "outputs"]


class Moments(NamedTuple):
    """What data say of parameters.

    Attributes:
      of: the second moments, summed over all places and examples, by path: of results
        ``[stack, features, features]``, of inputs ``[stack x groups, reduction, reduction]``.
      missing: for parameters that sites read, why they have none.
    """

    of: Mapping[str, np.ndarray]
    missing: Mapping[str, str]

    def why_not(self, path: str) -> str:
        """Why a parameter has none; empty if it has."""
        return "" if path in self.of else self.missing.get(path, "no site reads it on the data")


def second_moments(
    apply_fn: Callable[..., Any],
    params: Params,
    data: Iterable[Any],
    of: End = "outputs",
    places: int | None = None,
    select: Select | None = None,
) -> Moments:
    """Second moments at each parameter's sites, summed over batches.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``.
      params: its parameters.
      data: batches, each the tuple of the other arguments, or the single one.
      of: ``"outputs"``: of what the sites compute; ``"inputs"``: of what they multiply the parameter by, of a
        convolution the patches under its window.
      places: of a convolution's inputs, how many places of each result count at most.
      select: what of each batch the function is given: :mod:`jaxcomp.rewrite.batches`.

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
            runs[key] = jax.jit(run)
            missing |= unseen
        for path, moment in runs[key](params, *inputs).items():
            sums[path] = sums.get(path, 0) + np.asarray(moment, np.float64)
    if not runs:
        raise ArgumentError("data= gave no batch: give at least one (a generator can be read only once)")
    check_finite(sums, f"on the data the {of[:-1]} of ")
    what = "computes" if of == "outputs" else "reads"
    empty = {path for path, moment in sums.items() if not moment.any()}
    missing |= dict.fromkeys(empty, f"what it {what} on the data is 0")
    return Moments({path: moment for path, moment in sums.items() if path not in missing}, missing)


def _observed(
    apply_fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...], of: End, places: int | None
) -> tuple[Callable[..., dict[str, Any]], dict[str, str]]:
    """The sums for one batch as a function of it, and why there are none of some parameters."""
    program = trace(apply_fn, params, *inputs)
    known = with_factors(program, uses_of(program), jax.tree.leaves(params))
    uses = {path: own for path, own in known.items() if own.sites}
    missing = {path: why for path, own in uses.items() if (why := unseen(own, program, of))}
    sites = [(path, use) for path, own in uses.items() if path not in missing for use in own.sites]
    observe = observer(program, [use for _, use in sites], of, places)

    def run(params: Params, *inputs: Any) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        for (path, _), moment in zip(sites, observe(jax.tree.leaves((params, *inputs))), strict=True):
            sums[path] = sums.get(path, 0) + moment
        return sums

    return run, missing


def observer(
    program: Program,
    sites: list[Use],
    of: End,
    places: int | None = None,
    sums: Callable[[Any], Any] | None = None,
    power: int = 2,
) -> Callable[[list[Any]], list[Any]]:
    """A function of a program's leaves: the second moment at each site, ``[stack (x groups), n, n]``.

    Several sites may read one value; it is observed once. ``sums``, of rows ``[batch, places, n]``, makes others than
    :func:`gram`, of as many axes, and ``power``: how they grow with the rows. Where the parameter is multiplied by a
    number before its site reads it, inputs are, in its stead.
    """
    sums = sums or gram
    readers: dict[Value, list[Use]] = {}
    for use in sites:
        readers.setdefault(_value(use, of), []).append(use)
    nested = {node: i for i, node in enumerate(all_nodes(program.frame))}
    scans = {
        value: sorted({s for use in own for s in use.scans}, key=nested.__getitem__) for value, own in readers.items()
    }

    def probe(own: list[Use]) -> Callable[[Any], list[Any]]:
        return lambda x: [sums(_rows(use, x, of, places)) for use in own]

    observe = Observer(program, {value: probe(own) for value, own in readers.items()}, apart=scans)

    def run(leaves: list[Any]) -> list[Any]:
        found: dict[int, Any] = {}
        for (value, own), seen in zip(readers.items(), observe(leaves)[1], strict=True):
            for use, moment in zip(own, seen, strict=True):
                moment = moment.sum([i for i, scan in enumerate(scans[value]) if scan not in use.scans])
                moment = moment.reshape(-1, *moment.shape[-2:])
                found[id(use)] = by_factor(use, moment, power) if of == "inputs" else moment
        return [found[id(use)] for use in sites]

    return run


def unseen(uses: Uses, program: Program, of: End, widest: float | None = None) -> str:
    """Why a parameter that sites read has no moments; empty if it has."""
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


def gram(rows: Any, others: Any = None) -> Any:
    """Sums over places of the products of features ``[batch, n, n]``, with those of other rows if they are given."""
    others = rows if others is None else others
    if len(rows) == 1:  # without a batch axis XLA:CPU is twice as fast
        return jnp.einsum("pi,pj->ij", rows[0], others[0], precision="highest")[None]
    return jnp.einsum("bpi,bpj->bij", rows, others, precision="highest")
