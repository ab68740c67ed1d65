"""Sparsify: weights pruned layer by layer on data, those that are left making up for the others."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves, path_string, replace_leaves
from jaxcomp.core.progress import Progress, shows_progress, told
from jaxcomp.core.rules import ByPath, by_rule
from jaxcomp.core.types import Params, State
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.evidence import Evidence, Seen
from jaxcomp.observe.held_out import ENOUGH, examples_of, is_better, judged_on
from jaxcomp.observe.matrices import feature_groups, reduction
from jaxcomp.observe.moments import seen_at, unseen
from jaxcomp.posttrain import sparsify_counts
from jaxcomp.posttrain.sparsify_layer import MASKS_MARGIN, Pruned, Recipe, Reference
from jaxcomp.posttrain.sparsify_methods import PRUNERS, obc_seconds
from jaxcomp.posttrain.sparsify_report import SparseReport, SparseRow
from jaxcomp.posttrain.walk import Walk, lost
from jaxcomp.prune.patterns import Pattern
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, Uses, uses_of

SparsifyMethod = Literal["auto", "magnitude", "wanda", "woodfisher", "sparsegpt", "obc"]
DistributionName = Literal["uniform", "erk", "global"]


class Sparsified(NamedTuple):
    """Pruned parameters.

    Attributes:
      params: of the same structure, shapes and dtypes as before; what is pruned is exactly 0.
      masks: as the state of :func:`jaxcomp.prune.magnitude`, True = kept; ``optax.MaskedNode`` for what is not pruned.
      report: the treatment of each weight.
    """

    params: Params
    masks: State
    report: SparseReport


@shows_progress
def sparsify(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    sparsity: float | ByPath[float | None] | None = None,
    *,
    pattern: Pattern | tuple[int, int] | ByPath[Pattern | tuple[int, int] | None] | None = None,
    method: SparsifyMethod = "auto",
    distribution: DistributionName = "uniform",
    fisher: Params | None = None,
    reference: Reference = "corrected",
    refit: bool | None = None,
    damping: float = 0.01,
    places: int | None = None,
    maximum: float = 0.99,
    select: Select | None = None,
    progress: Progress = None,
) -> Sparsified:
    r"""Prunes layer by layer so that, on data, the layers' outputs stay what they were; nothing is trained.

    Of a layer with weights W and inputs x it is :math:`\sum |W^\top x - W'^\top x|^2 + \lambda |W - W'|^2` that is kept
    small. ``magnitude``: the smallest weights go. ``wanda``: the smallest products of a weight and its input's norm, of
    each output alike. ``woodfisher``: those of least :math:`F w^2`, F the Fisher information's diagonal. ``sparsegpt``:
    input after input, those that follow make up for each. ``obc``: of each output always the cheapest weight, all
    others make up for it; costs out x reduction^3 (a 3 x 3 convolution of 64 channels takes half a second, of 256 a
    minute and a half; a warning says so of more than a minute in all). ``auto``: ``obc`` where that takes about 5
    seconds at most, else ``sparsegpt``; under global distribution one of the two for all. All outputs of a layer, its
    groups, and stacked layers that share a parameter, are ranked together (of ``wanda``, output by output).

    Every fourth example (of two or three the last; of one alone the last quarter of its places) is held out: nothing is
    fitted to it. Refitted weights go from what they were as far as serves it, and where a method is no better there
    than ``magnitude``, the smallest weights of the layer go instead; the report says so. Its errors are those of what
    was held out.

    A weight is pruned where matmuls or convolutions (strided, dilated, grouped, depthwise) read it, and nothing else
    does, through casts, transposes, reshapes, products with a number, and into scan, remat, cond and custom
    derivatives. Every other one stays as it is; the report says why. After a method that leaves the others as they are,
    recalibrate batch norm (:func:`recalibrate`); after one that refits them it may do harm: score both.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one). What they
        are in a layer is held in memory, for all of them.
      sparsity: the fraction of zeros in [0, 1); ``{path: fraction}`` or ``[(regex, fraction), ...]``, of which the
        first that matches the whole path counts. None, or what none matches, stays dense.
      pattern: instead of it ``jaxcomp.prune.nm(n, m)``, or ``(n, m)``: of every m weights in a row along what the
        layer sums over, whatever its layout (a convolution's window, then its input channels), n are kept; or rules of
        it.
      method: see above.
      distribution: ``"uniform"``: every layer is as sparse as it is asked to be; ``"erk"``: more so the larger it is;
        ``"global"``: by what it costs, at the same number of zeros in all.
      fisher: the squares of the loss's gradients, a tree like ``params``: :func:`jaxcomp.observe.fisher_diagonal`.
        Global distribution then weighs an output's error by what the loss feels of it; else by the size of the layer's
        outputs.
      reference: ``"dense"``: layers are fed as in the dense network; ``"pruned"``: with the layers before them pruned;
        ``"corrected"``: so, and they aim at what the dense network computes. Inside of loops as ``"pruned"``, with the
        loop's own layers dense.
      refit: whether the weights that are left are refitted, by least squares; None: as the method has it (``wanda``,
        ``magnitude`` and ``woodfisher`` leave them).
      damping: :math:`\lambda`, in units of the inputs' mean square.
      places: of each result of a convolution, how many pixels count at most; None: all.
      maximum: the sparsity that global distribution exceeds in no layer.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The parameters, their masks, and a report that prints as a table.

    Raises:
      ArgumentError: for an argument out of range or missing, no batch, batches of several shapes, and weights, what
        they read on the data, or Fisher information that is not finite (with the path and how many); RuleError: for a
        rule that applies to nothing.

    Example:
      >>> params = {"w": jnp.array([[4.0, 1.0], [2.0, 3.0]])}
      >>> data = jnp.array([[1.0, 10.0], [-1.0, 10.0], [1.0, -10.0], [1.0, 10.0]])
      >>> sparse = sparsify(lambda p, x: x @ p["w"], params, [data], 0.5, method="wanda")
      >>> sparse.params["w"].tolist(), sparse.masks["w"].tolist()
      ([[0.0, 0.0], [2.0, 3.0]], [[False, False], [True, True]])
      >>> print(sparse.report)
      parameter  size   asked  reached   error
      ---------  ----  ------  -------  ------
      w             4  50.00%   50.00%  0.0111
      ---------  ----  ------  -------  ------
      total         4           50.00%
      error: squared error of the layer's outputs, over their squares
      errors are those on 1 of 4 examples of what was fitted to the others

    Reference: Frantar and Alistarh, Optimal brain compression, 2022, and SparseGPT, 2023; Sun et al., A simple and
    effective pruning approach for large language models (Wanda), 2024; Singh and Alistarh, WoodFisher, 2020.
    """
    params = concrete(params, "sparsify")
    check_unquantized(apply_fn, params, "sparsify")
    given = checked_batches(apply_fn, params, batches, select)
    named = named_leaves(params)
    recipe = _recipe(method, pattern, distribution, reference, refit, damping, fisher)
    program = trace(apply_fn, params, *given[0])
    known = with_factors(program, uses_of(program), jax.tree.leaves(params))
    sites = {path: own for path, own in known.items() if own.sites or own.other}
    recipe = replace(recipe, factors={path: _factor(own) for path, own in sites.items() if own.scaled})
    skipped = {
        path: why for path, own in sites.items() if (why := next(iter(own.other), "") or unseen(own, program, "inputs"))
    }
    goals = _goals(sparsity, pattern, [path for path in sites if path not in skipped])
    examples, moments = examples_of(given), dict[str, Seen]()
    if recipe.reads_data and (reference == "dense" or distribution == "global"):
        moments = _dense(program, {path: sites[path].sites for path in goals}, params, given, examples, places)
        check_finite({path: seen.sizes for path, seen in moments.items()}, "on the data the input of ")
        empty = [path for path, seen in moments.items() if not seen.reached]
        skipped |= dict.fromkeys(empty, "its inputs are 0 on the data")
        goals = {path: goal for path, goal in goals.items() if path not in skipped}
    check_finite({path: named[path] for path in goals})
    _check_fisher(recipe, goals, named)
    uses = {path: own.sites for path, own in sites.items() if path in goals}
    recipe = _timely(recipe, method, distribution, [_shape(own[0], named[path]) for path, own in uses.items()])
    evidence = {path: moments.pop(path).evidence(examples) for path in goals if path in moments}
    if not recipe.pattern:
        goals = _counts(recipe, uses, named, goals, evidence, distribution, maximum)
    found: dict[str, Pruned] = {}

    tell, number = told(progress), itertools.count()

    def solve(path: str, use: Use, known: Evidence | None) -> Any:
        tell(next(number), len(uses), path)
        found[path] = recipe.solve(path, use, named[path], known, goals[path])
        return found[path].leaf

    def reached(path: str, use: Use, seen: Seen) -> Any:
        check_finite({path: seen.sizes}, "on the data the input of ")
        if seen.reached:
            return solve(path, use, seen.evidence(examples))
        skipped[path] = "its inputs are 0 on the data"
        return named[path]

    walk = Walk(program, uses, reached, places, measured=False)
    if recipe.reads_data and reference != "dense":
        evidence.clear()  # it was of the dense network
        walk.run(jax.tree.leaves(params), [jax.tree.leaves(batch) for batch in given])
    else:
        for path, own in uses.items():
            solve(path, own[0], evidence.pop(path, None))
    tell(len(uses), len(uses), "all layers")
    decided = ""
    if any(own.plain is not None for own in found.values()):
        found, decided = _better(program, params, given, found, recipe.refits, walk)
    judged = judged_on(examples) if recipe.reads_data else ""
    done = _result(params, {path: named[path] for path in sites}, found, goals, skipped)
    return done._replace(
        report=replace(done.report, left_out=left_out(program, sites.keys()), judged=judged, decided=decided)
    )


def _shape(use: Use, leaf: Any) -> tuple[int, int, int]:
    """The shape of a parameter's matrix, ``[groups, reduction, out]``."""
    groups, size = use.size(use.stack) * feature_groups(use), use.size(reduction(use))
    return groups, size, leaf.size // max(groups * size, 1)


def _timely(recipe: Recipe, method: str, distribution: str, shapes: Sequence[tuple[int, int, int]]) -> Recipe:
    """The recipe, of one method for all layers where they are compared; warns of what will take long."""
    if method == "obc" and (seconds := sum(map(obc_seconds, shapes))) > 60:
        warnings.warn(
            f"method='obc' will take about {seconds / 60:.0f} minutes on two cores for these {len(shapes)} weights; "
            "'auto' takes SparseGPT for the large ones, in seconds",
            stacklevel=4,
        )
    if distribution == "global" and any(map(recipe.pruner.other, shapes)):
        return replace(recipe, pruner=PRUNERS["sparsegpt"]._replace(other=lambda _: "sparsegpt"))
    return recipe


def _factor(uses: Uses) -> Any:
    """By what a parameter is multiplied at its sites, ``[groups, 1, 1]`` where layers differ; the root mean square."""
    factors = [np.square(use.factor) for use in uses.sites]
    if all(np.ndim(each) == 0 for each in factors):
        return float(np.sqrt(np.mean(factors))) if factors else 1.0
    both = np.sqrt(np.mean(np.stack(np.broadcast_arrays(*factors)), axis=0))
    use = uses.sites[0]
    groups = use.size(use.stack) * feature_groups(use) // len(both)
    return jnp.asarray(np.repeat(both, groups)[:, None, None], jnp.float32)


def _dense(
    program: Program, uses: Mapping[str, Any], params: Any, given: Any, examples: Any, places: int | None
) -> dict[str, Seen]:
    """Sums of what flows into each parameter's sites in the dense network."""
    sites = [(path, use) for path, own in uses.items() for use in own]
    leaves = [jax.tree.leaves((params, *batch)) for batch in given]
    found: dict[str, Seen] = {}
    for (path, _), seen in zip(
        sites, seen_at(program, [use for _, use in sites], leaves, examples, places), strict=True
    ):
        found[path] = found[path].added(seen) if path in found else seen
    return found


def _better(
    program: Program, params: Params, given: Any, found: dict[str, Pruned], refits: bool, walk: Walk
) -> tuple[dict[str, Pruned], str]:
    """The outcome, if the function's results where it is held out bear out what was decided layer by layer.

    What was fitted has to be better than the plain method, and so have masks alone that few examples judge; of more,
    masks are no more than 2 % worse, as in each layer.

    Returns:
      What is kept of the two, and why, if that is not what was found.
    """
    plain = {path: own.plain or own for path, own in found.items()}
    errors = [
        walk.lost_with({path: own.leaf for path, own in each.items()})
        if walk.results
        else lost(program, params, replace_leaves(params, {path: own.leaf for path, own in each.items()}), given)
        for each in (found, plain)
    ]
    strict = refits or len(errors[0]) < ENOUGH // 4
    if is_better(*errors) if strict else errors[0].sum() <= MASKS_MARGIN * errors[1].sum():
        return found, ""
    return plain, "all layers have the plain method's weights: with them the results on those examples are no worse"


def _result(params: Params, sites: Mapping[str, Any], found: Any, goals: Any, skipped: Any) -> Sparsified:
    rows = []
    for path, leaf in sites.items():
        if path in found:
            goal, own = goals[path], found[path]
            asked = 1 - goal[0] / goal[1] if isinstance(goal, tuple) else 1 - goal / leaf.size
            rows.append(SparseRow(path, leaf.size, asked, 1 - float(np.mean(own.mask)), own.error, back=own.back))
        else:
            zeros = float(np.mean(np.asarray(leaf) == 0))
            rows.append(SparseRow(path, leaf.size, None, zeros, skipped=skipped.get(path, "not asked for")))

    def mask(path: Any, leaf: Any) -> Any:
        own = found.get(path_string(path))
        return optax.MaskedNode() if own is None else jax.device_put(np.asarray(own.mask))

    new = replace_leaves(params, {path: own.leaf for path, own in found.items()})
    return Sparsified(new, jax.tree_util.tree_map_with_path(mask, params), SparseReport(tuple(rows)))


def _counts(
    recipe: Recipe, uses: Any, named: Any, goals: Any, known: Any, distribution: str, maximum: float
) -> dict[str, int]:
    """How many weights each layer keeps."""
    shapes = {path: named[path].shape for path in goals}
    even = sparsify_counts.uniform(shapes, goals)
    if distribution == "global":
        costs = {}
        for path, own in uses.items():
            costs[path] = recipe.pruner.costs(recipe.layer(path, own[0], named[path], known.get(path)))
        return sparsify_counts.globally(costs, sum(even.values()), maximum)
    return sparsify_counts.erk(shapes, goals) if distribution == "erk" else even


def _goals(sparsity: Any, pattern: Any, candidates: list[str]) -> dict[str, Any]:
    """The sparsity or pattern asked of each parameter; without those that stay dense."""
    if (sparsity is None) == (pattern is None):
        raise ArgumentError("sparsify needs exactly one of sparsity= and pattern=")
    asked = pattern if sparsity is None else sparsity
    goals = {path: goal for path, goal in by_rule(asked, candidates).items() if goal is not None}
    for path, goal in goals.items():
        if pattern is None and not (isinstance(goal, float | int) and 0 <= goal < 1):
            raise ArgumentError(f"sparsity must be a fraction of zeros in [0, 1), got {goal!r} for {path!r}")
    return goals if pattern is None else {path: _n_of_m(path, goal) for path, goal in goals.items()}


def _check_fisher(recipe: Recipe, goals: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Refuses Fisher information that is missing where it is needed, or of another shape than the parameter."""
    for path in goals:
        shape = np.shape(recipe.fisher[path]) if path in recipe.fisher else None
        if (shape is None and recipe.pruner.needs == "fisher") or shape not in (None, named[path].shape):
            raise ArgumentError(
                f"fisher= has {'nothing' if shape is None else f'an array of shape {shape}'} for {path!r} of shape "
                f"{named[path].shape}: give a tree like params, jaxcomp.observe.fisher_diagonal(grads)"
            )
        check_finite({path: recipe.fisher.get(path)}, "the Fisher information of ")


def _n_of_m(path: str, pattern: Any) -> tuple[int, int]:
    pair = pattern.n_of_m if isinstance(pattern, Pattern) else pattern
    if isinstance(pair, tuple) and len(pair) == 2 and 0 < pair[0] <= pair[1]:
        return pair
    got = f"the pattern {pattern.name}" if isinstance(pattern, Pattern) else repr(pattern)
    raise ArgumentError(f"pattern must be jaxcomp.prune.nm(n, m) or (n, m), 1 <= n <= m; got {got} for {path!r}")


def _recipe(
    method: str, pattern: Any, distribution: str, reference: Any, refit: bool | None, damping: float, fisher: Any
) -> Recipe:
    for name, value, known in (
        ("method", method, tuple(PRUNERS)),
        ("distribution", distribution, ("uniform", "erk", "global")),
        ("reference", reference, ("corrected", "pruned", "dense")),
    ):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if PRUNERS[method].needs == "fisher" and fisher is None:
        raise ArgumentError(
            f"method={method!r} needs fisher=, the squares of gradients: jaxcomp.observe.fisher_diagonal(grads)"
        )
    if pattern is not None and distribution != "uniform":
        raise ArgumentError(
            f"a pattern has one sparsity in all layers: distribution={distribution!r} has no part in it"
        )
    if not damping >= 0:
        raise ArgumentError(f"damping must be at least 0, got {damping!r}")
    squares = {} if fisher is None else named_leaves(fisher)
    return Recipe(PRUNERS[method], pattern is not None, reference, refit, damping, squares)
