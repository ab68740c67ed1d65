"""Bias correction: the means of layers' results become what they were before weights were changed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import leaves_of, named_leaves, replace_leaves
from jaxcomp.core.programs import compiled
from jaxcomp.core.tables import table, with_left_out
from jaxcomp.core.types import Grid, Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.held_out import ENOUGH, NO_BETTER, Examples, by_chance, chance, counts, examples_of, is_better
from jaxcomp.observe.matrices import matrix
from jaxcomp.observe.moments import observer, unseen
from jaxcomp.posttrain.find_biases import Biases, find_biases
from jaxcomp.posttrain.quantized_inputs import altered_inputs
from jaxcomp.posttrain.walk import Walk, lost
from jaxcomp.rewrite.quant.scheme import Schemes
from jaxcomp.rewrite.quant.targets import find_targets, reached
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Uses, uses_of


class Corrected(NamedTuple):
    """Parameters with corrected biases.

    Attributes:
      params: of the same structure, shapes and dtypes.
      report: the treatment of the bias of each weight.
    """

    params: Params
    report: "BiasReport"


@dataclass(frozen=True)
class BiasReport:
    """For each weight, the parameter in which its mean error was corrected, or why there is none; prints as a table.

    Attributes:
      rows: ``(weight, its biases, why they are not corrected)``.
      left_out: ``{path: what reads it}`` of all other parameters, which stay as they are.
    """

    rows: tuple[tuple[str, str, str], ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = table(["weight", "bias", "skipped because"], [list(row) for row in self.rows])
        return with_left_out(text, self.left_out)


def correct_biases(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    changed: Params,
    scheme: Schemes = None,
    *,
    method: Literal["exact", "fast"] = "exact",
    ranges: Mapping[str, Grid] | None = None,
    select: Select | None = None,
) -> Corrected:
    r"""Gives the results of each layer the means that they had before its weights were rounded (or cut, or factorized).

    ``fast``: :math:`b' = b + (W - W')^\top \mathrm{E}[x]`, of the inputs as they were: one pass. ``exact``: layer after
    layer, by the means of its results on what the layers before it now give, quantized if the scheme has it so: what
    they do is corrected too. The bias is what is first added to a site's result: at best after
    :func:`fold_batch_norm`; else a batch norm's mean (its variance is left: :func:`recalibrate`).
    :func:`round_weights` does it as it goes. A layer's biases stay where its means have moved by no more than chance
    makes them on so many examples (of one alone, on stretches of its places): to set them would add error to others. Of
    less than 32 examples every fourth is held out; biases stay where the function's results on those are no better.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: the parameters as they were.
      batches: of one shape, each the tuple of the other arguments (or the single one).
      changed: the parameters as they are now.
      scheme: whose inputs are quantized, as of :func:`quantize`; None: none are.
      method: see above.
      ranges: of static inputs.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.

    Returns:
      ``changed`` with other biases, and a report that prints as a table.

    Raises:
      ArgumentError: for another method, no batch, batches of several shapes, static inputs without a range, weights or
        corrections that are not finite (with the path); RuleError: for a rule that applies to no weight.

    Example:
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> old = {"w": jnp.array([[0.4], [0.4]]), "bias": jnp.zeros(1)}
      >>> data = jnp.tile(jnp.array([[1.0, 0.0], [2.0, 2.0]]), (16, 1))
      >>> new = correct_biases(layer, old, [data], old | {"w": jnp.zeros((2, 1))})
      >>> new.params["bias"].tolist()
      [1.0]
      >>> print(new.report)
      weight  bias  skipped because
      ------  ----  ---------------
      w       bias

    Reference: Nagel et al., Data-free quantization through weight equalization and bias correction, 2019.
    """
    if method not in ("exact", "fast"):
        raise ArgumentError(f"method must be 'exact' or 'fast', got {method!r}")
    params, changed = (concrete(tree, "correct_biases") for tree in (params, changed))
    check_unquantized(apply_fn, params, "correct_biases")
    given = checked_batches(apply_fn, params, batches, select)
    program = trace(apply_fn, params, *given[0])
    now = leaves_of(changed, program.paths, "the changed parameters")
    known = with_factors(program, uses_of(program), jax.tree.leaves(params))
    uses = {path: own for path, own in known.items() if own.sites}
    for tree in (params, changed):
        check_finite({path: named_leaves(tree)[path] for path in uses}, why="whose results have no means")
    found = find_biases(program, uses)
    biases, missing = [bias for own in found.of.values() for bias in own], dict(found.missing)
    targets = None if scheme is None else reached(find_targets(program, scheme), ranges)
    altered = {} if targets is None else altered_inputs(targets, uses, ranges or {})
    if method == "fast":
        means = _input_means(program, {path: uses[path] for path in found.of}, params, given)
        missing |= dict.fromkeys(found.of.keys() - means.keys(), "its inputs cannot be watched")
        new = _moved(program, uses, found, means, named_leaves(params), named_leaves(changed), missing)
    else:
        apart = bool(getattr(ranges, "judging", None))
        walk = Walk(program, {}, lambda *_: None, None, altered, biases, apart=apart)
        with np.errstate(invalid="ignore"):  # what is not finite is named below
            way = walk.run(jax.tree.leaves(params), [jax.tree.leaves(each) for each in given], now)
        new = way.new
        missing |= {bias.weight: way.unmoved[bias.path] for bias in biases if bias.path in way.unmoved}
    check_finite(new, "on the data the corrected bias ", "as do the results that it is added to")
    examples = examples_of(given)
    if new and counts(examples)[1] < ENOUGH:
        before, after = (
            lost(program, params, each, given, altered) for each in (changed, replace_leaves(changed, new))
        )
        if not is_better(after, before):
            new, missing = {}, dict.fromkeys(found.of, NO_BETTER) | missing
    rows = [
        (path, "" if path in missing else ", ".join(bias.path for bias in found.of[path]), missing.get(path, ""))
        for path in program.paths
        if path in uses
    ]
    told = {*uses, *(bias.path for path, own in found.of.items() if path not in missing for bias in own)}
    return Corrected(replace_leaves(changed, new), BiasReport(tuple(rows), left_out(program, told)))


def _input_means(
    program: Program, uses: Mapping[str, Uses], params: Params, batches: Sequence[tuple[Any, ...]]
) -> dict[str, np.ndarray]:
    """The means of what each example gives each weight's only site, ``[examples, groups, reduction]``."""
    sites = {
        path: own.sites[0] for path, own in uses.items() if len(own.sites) == 1 and not unseen(own, program, "inputs")
    }
    parts: dict[str, list[np.ndarray]] = {path: [] for path in sites}
    examples = examples_of(batches)
    run = compiled(observer(program, list(sites.values()), "inputs", None, examples[0].row_means, power=1))
    for batch in batches:
        for path, own in zip(sites, run(jax.tree.leaves((params, *batch))), strict=True):
            parts[path].append(np.asarray(own, np.float64).swapaxes(0, 1))
    return {path: _to_fit(own, examples) for path, own in parts.items()}


def _to_fit(means: Sequence[np.ndarray], examples: Sequence[Examples]) -> np.ndarray:
    """Means over all batches; of few examples without those that are held out."""
    held = np.concatenate([own.held_means(len(each)) for own, each in zip(examples, means, strict=True)])
    whole = np.concatenate(means)
    return whole[~held] if len(whole) < ENOUGH and not held.all() else whole


def _moved(
    program: Program,
    uses: Mapping[str, Uses],
    found: Biases,
    means: Mapping[str, np.ndarray],
    old: Mapping[str, Any],
    changed: Mapping[str, Any],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Biases moved by what the weights' change does to a mean input; names those that are scaled before."""
    new = {}
    for path, mean in means.items():
        (use,), (bias,) = uses[path].sites, found.of[path]
        if bias.scaled:
            missing[path] = "its result is scaled before the bias: method='exact' corrects it"
            continue
        change = matrix(use, old[path]) - matrix(use, changed[path])
        each = np.einsum("gro,egr->ego", change, mean)
        if by_chance(each.reshape(len(each), -1)):
            missing[path] = chance(len(each))
            continue
        moved = np.mean(each, 0).reshape(use.size(use.stack), -1)
        leaf = changed[bias.path]
        new[bias.path] = jnp.asarray(
            np.asarray(leaf, np.float64) + bias.sign * moved.reshape(np.shape(leaf)), leaf.dtype
        )
    return new
