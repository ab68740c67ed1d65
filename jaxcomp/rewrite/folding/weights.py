"""Weights that a function computes of its parameters (standardized, normalized, adapted), computed once."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.paths import named_leaves, replace_leaves, without
from jaxcomp.core.types import Params
from jaxcomp.rewrite.folding.batch_norm import Folded, evaluated
from jaxcomp.rewrite.folding.computed import Bodies, Candidates, Computed, Key, candidates, of_these_sizes, recipe
from jaxcomp.rewrite.folding.find import Changes
from jaxcomp.rewrite.folding.report import FoldRow
from jaxcomp.rewrite.folding.run import Evaluation
from jaxcomp.rewrite.rewritten import Born
from jaxcomp.trace import compat
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Frame, Program, Value, trace
from jaxcomp.trace.liveness import live_values
from jaxcomp.trace.sites import check_reads


def fold_weights(apply_fn: Callable[..., Any], params: Params, *example: Any) -> tuple["FoldedWeights", Params]:
    r"""Makes parameters of the weights that a function computes of its parameters, each time anew, whatever they are.

    Of weight standardization, weight and spectral norm at rest, a low-rank adapter added to a kernel, kernels
    concatenated, masked or cast: what a matmul or convolution reads becomes a parameter, in place of the one that it is
    mostly made of, and can be quantized, pruned, cut and factorized. For inference: training it is training another
    network. Also in remat and in scan, not in branches, while loops and custom derivatives.

    Nothing grows, and nothing is made for one batch: of what repeats itself along an axis (a query tiled to the batch)
    one entry is kept, a weight larger than the parameters that it is computed of stays computed, and so does one that
    depends on the sizes of the inputs (positions of so many patches), found by tracing with others.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, in evaluation mode.
      params: a whole tree of variables; ``ShapeDtypeStruct`` will do.
      *example: the other arguments, or their shapes.

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters: each weight in place of a parameter that
      it is computed of and that nothing else needs, at best one of its shape, else the largest; the others that nothing
      needs any more are gone from dicts and ``nnx.State``, and None in other containers.

    Raises:
      ArgumentError: if the function reads no parameter; from the new function, for inputs for which weights are
        computed otherwise.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.ones((4, 3)), "a": jnp.ones((4, 1)), "b": jnp.full((1, 3), 2.0)}
      >>> adapted = lambda p, x: x @ (p["w"] + p["a"] @ p["b"])
      >>> new, folded = fold_weights(adapted, params, jnp.ones((1, 4)))
      >>> {path: leaf.shape for path, leaf in folded.items()}, float(folded["w"][0, 0])
      ({'w': (4, 3)}, 3.0)
      >>> print(new.report)
      kernel  bias  taken in
      ------  ----  --------
      w             a, b
      bias: the parameter that holds the shift; taken in: parameters that were folded into kernel and bias

    Reference: Qiao et al., Micro-batch training with batch-channel normalization and weight standardization, 2019;
    Salimans and Kingma, Weight normalization, 2016.
    """
    params = as_arrays(params)
    check_unquantized(apply_fn, params, "fold_weights")
    program = trace(apply_fn, params, *example)
    check_reads(program)
    find = functools.partial(find_weights, sized=of_these_sizes(apply_fn, params, example, candidates(program)))
    found = find(program)
    values = evaluated(
        lambda leaves: weight_values(program, found.weights, leaves), list(named_leaves(params).values())
    )
    small = without(replace_leaves(params, values), found.gone)
    return FoldedWeights(apply_fn, params, small, found, find, Born(example, program, found)), small


class FoldedWeights(Folded):
    """A function whose computed weights became parameters. Made by :func:`fold_weights`."""

    name = "fold_weights"


class FoundWeights(NamedTuple):
    """The weights of a program that are computed.

    Attributes:
      weights: that become parameters.
      rows: the report.
      live: the values that are still needed.
      gone: the parameters that are not.
      made: the decision, comparable between programs of one function.
    """

    weights: tuple[Computed, ...]
    rows: tuple[FoldRow, ...]
    live: frozenset[Value]
    gone: frozenset[str]
    made: Any

    @property
    def changes(self) -> Changes:
        """The changes to the program."""
        return Changes((), {each.node: each.carrier for each in self.weights})


def find_weights(program: Program, sized: Collection[Key] = ()) -> FoundWeights:
    """Finds the weights of a program that are computed of parameters, and the parameters that can hold them.

    Args:
      program: a traced function.
      sized: which of :func:`candidates` depend on the sizes of the inputs.
    """
    found = candidates(program)
    skipped = {
        key: SIZED if key in sized else LARGER for key, each in found.weights.items() if key in sized or each.grew
    }
    kept, live = _with_owners(program, found, skipped)
    before = live_values(program.frame, program.frame.outs)
    gone = frozenset(path for path, value in program.parameters().items() if value in before and value not in live)
    rows = {each.owner: FoldRow(each.owner, taken=tuple(p for p in each.paths if p in gone)) for each in kept}
    for (paths, _), reason in skipped.items():
        rows.setdefault(paths[0], FoldRow(paths[0], skipped=reason))
    values = [each.value for each in kept]
    ordered = tuple(rows[path] for path in program.paths if path in rows)
    made = tuple((each.owner, each.shape) for each in kept), gone, *recipe(program, values)
    return FoundWeights(tuple(kept), ordered, frozenset(live), gone, made)


NO_OWNER = "none of the parameters that it is computed of becomes free to hold the weight"
LARGER = "the weight is larger than the parameters that it is computed of"
SIZED = "the weight depends on the sizes of the inputs"


def _with_owners(program: Program, found: Candidates, skipped: dict[Key, str]) -> tuple[list[Computed], set[Value]]:
    """Finds for each weight a parameter that is no longer needed; notes why the others stay computed."""
    while True:
        weights = {key: each for key, each in found.weights.items() if key not in skipped}
        live = _live(program, list(weights.values()))
        taken, chosen = set[str](), dict[Key, Computed]()
        for key, each in weights.items():
            carrier = _carrier(program, found.bodies, each, live, taken)
            owner = "" if carrier is None else found.bodies.image[carrier]
            taken.add(owner)
            chosen[key] = each._replace(carrier=carrier, owner=owner)
        lost = {key: NO_OWNER for key, each in chosen.items() if each.carrier is None}
        if not lost:
            lost = _grown(program, chosen, _live(program, list(chosen.values())))
        if not lost:
            return list(chosen.values()), _live(program, list(chosen.values()))
        skipped |= lost


def _grown(program: Program, chosen: dict[Key, Computed], live: set[Value]) -> dict[Key, str]:
    """One of several weights that share parameters and are together larger than what becomes free, if there are any."""
    sizes = {path: math.prod(value.shape) for path, value in program.parameters().items()}
    gone = {path for path, value in program.parameters().items() if value not in live}
    for each in chosen.values():
        related = [other for other in chosen.values() if set(other.paths) & set(each.paths)]
        free = set[str]().union(*(other.paths for other in related)) & (gone | {other.owner for other in related})
        if sum(math.prod(other.shape) for other in related) > sum(sizes[path] for path in free):
            worst = max(chosen, key=lambda key: math.prod(chosen[key].shape) - sizes[chosen[key].owner])
            return {worst: LARGER}
    return {}


def _live(program: Program, weights: Sequence[Computed]) -> set[Value]:
    changes = Changes((), {each.node: each.carrier for each in weights})
    return live_values(program.frame, program.frame.outs, changes.reads)


def _carrier(program: Program, bodies: Bodies, each: Computed, live: set[Value], taken: set[str]) -> Value | None:
    """The parameter, seen from the weight's body, in whose place it comes: of its shape, else the largest."""
    params = program.parameters()
    fitting = [
        value
        for value in each.frame.ins
        if bodies.image.get(value) in set(each.paths) - taken
        and bodies.scans(value) == each.stacked
        and compat.is_inexact(value.dtype)
        and params[bodies.image[value]] not in live
    ]

    def rank(value: Value) -> tuple[bool, bool, int]:
        same = value.shape == each.shape
        return same, same and value.dtype == each.value.dtype, math.prod(value.shape)

    return max(fitting, key=rank, default=None)


class _Weights(Evaluation):
    """Notes the weights of each body as it has run."""

    def __init__(self, program: Program, weights: Sequence[Computed]):
        super().__init__(program, [(each.frame, [each.value]) for each in weights])
        self._of = {id(each.frame): [one for one in weights if one.frame is each.frame] for each in weights}

    def end(self, frame: Frame, read: Callable[[Value], Any]) -> None:
        self.seen |= {each.owner: each.once(read(each.value)) for each in self._of.get(id(frame), ())}


def weight_values(program: Program, weights: Sequence[Computed], leaves: Sequence[Any]) -> Mapping[str, Any]:
    """Computes the weights, by path; of those that scans compute again and again, one.

    Args:
      program: a traced function.
      weights: the computed ones.
      leaves: of its parameters.
    """
    rest = [None] * (len(program.frame.ins) - len(leaves))
    _, seen = _Weights(program, weights).watched(program.frame, [*leaves, *rest])
    return {each.owner: seen[each.owner][_one(each)] for each in weights}


def _one(each: Computed) -> tuple[Any, ...]:
    return tuple(slice(None) if scan in each.stacked else 0 for scan in each.around)
