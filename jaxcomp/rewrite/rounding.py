"""Rounding: weights on the grids of a scheme, layer by layer on data, so that outputs stay what they were."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import check_finite
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.tables import dims, table, with_left_out
from jaxcomp.core.types import Grid, Params
from jaxcomp.rewrite.batches import Select, checked_batches
from jaxcomp.rewrite.biases import Biases, find_biases
from jaxcomp.rewrite.integer_weights import check_unquantized
from jaxcomp.rewrite.moments import unseen
from jaxcomp.rewrite.rounders import MethodName, Settings, nearest, rounded
from jaxcomp.rewrite.schemes import INT8, find_targets
from jaxcomp.rewrite.site_inputs import altered_inputs
from jaxcomp.rewrite.walk import Seen, Walk
from jaxcomp.trace.account import left_out
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of


class RoundRow(NamedTuple):
    """What became of one weight.

    Attributes:
      path: the weight.
      shape: its own.
      format: that of its codes; ``""`` if it was not rounded.
      method: how it was rounded.
      back: the fraction of its outputs that are rounded to the nearest after all, as nothing better was found.
      error: the squared error of its sites' results, what quantised inputs and earlier layers do to them included, over
        the squares of what they were; None if not known.
      bias: the parameter in which the mean of that error is corrected; else why there is none.
      left: why it, or its rounding, is not as asked for.
    """

    path: str
    shape: tuple[int, ...]
    format: str = ""
    method: str = ""
    back: float = 0.0
    error: float | None = None
    bias: str = ""
    left: str = ""


@dataclass(frozen=True)
class RoundReport:
    """What became of every weight that a matmul or convolution reads, in order of the leaves; prints as a table.

    Attributes:
      rows: one a weight.
      left_out: ``{path: what reads it}`` of the parameters that are neither weights nor their biases.
    """

    rows: tuple[RoundRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        columns = ["weight", "shape", "format", "method", "nearest", "error", "bias"]
        left = any(row.left for row in self.rows)
        rows = [
            [row.path, dims(row.shape), row.format, row.method, f"{row.back:.0%}" if row.method else "",
             "" if row.error is None else f"{row.error:.5f}", row.bias, *[row.left] * left]
            for row in self.rows
        ]  # fmt: skip
        return with_left_out(table([*columns, *["left because"] * left], rows), self.left_out)


class Rounded(NamedTuple):
    """Rounded parameters.

    Attributes:
      params: of the same structure, shapes and dtypes as before; weights are on their grids.
      grids: ``{path: grid}``, for :func:`jaxcomp.rewrite.quantize`.
      report: what became of each weight.
    """

    params: Params
    grids: dict[str, Grid]
    report: RoundReport


def round_weights(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    scheme: Any = INT8,
    *,
    method: MethodName = "gptq",
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
    inputs: Literal["corrected", "rounded"] = "corrected",
    biases: bool = True,
    damping: float = 0.01,
    act_order: bool = True,
    sweeps: int = 4,
    steps: int = 500,
    places: int | None = None,
    select: Select | None = None,
) -> Rounded:
    r"""Rounds weights layer by layer so that, on data, the layers' outputs stay what they were; nothing is trained.

    Of a layer with weights W and inputs x :math:`\sum |W^\top x - W'^\top x'|^2 + \lambda |W - W'|^2` is kept small,
    x' being what the layers before it now give, quantised if the scheme has it so. ``gptq``: input after input,
    those that follow make up for each, and then code by code (:func:`jaxcomp.quant.descend`). ``adaround``: each weight
    up or down, learned. ``nearest``: as :func:`quantize` does. No output's error is above that of rounding to the
    nearest. Of less than 8 bits, where a scheme has no ``fit`` and no grid is given, the part of the range that a grid
    reaches over is chosen by that error too, output by output if they have scales of their own. Zeros stay zero.

    Where a site has a bias, or a batch norm's mean, that nothing else reads, it takes up the mean of the error.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one). What they
        are in a layer is held in memory, for all of them.
      scheme: a :class:`Scheme`, or rules of them, as of :func:`quantize`.
      method: see above.
      ranges: ``{path: grid}`` of static inputs: :func:`calibrate`.
      grids: ``{path: grid}`` of weights, for those that are not to be fitted.
      inputs: ``"corrected"``: layers aim at what the float network computes; ``"rounded"``: at what they themselves
        did, on the inputs as they are now. Inside of loops the latter, on inputs that are not quantised.
      biases: whether they are corrected.
      damping: :math:`\lambda`, in units of the inputs' mean square.
      act_order: of ``gptq``: whether the inputs of the largest squares come first.
      sweeps: of ``gptq``: code by code, over all inputs.
      steps: of ``adaround``.
      places: of each result of a convolution, how many pixels count at most; None: all.
      select: what of each batch the function is given, a key or a function of it: :mod:`jaxcomp.rewrite.batches`.

    Returns:
      The parameters, their grids (``quantize(..., grids=rounded.grids)`` ships these very numbers), and a report that
      prints as a table.

    Raises:
      ArgumentError: for an argument out of range, static inputs without a range, no batch, batches of several
        shapes, and what is not finite (the weight is named); RuleError: for a rule that applies to no weight.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxcomp as jc
      >>> from jaxcomp.rewrite import Scheme
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> params = {"w": jnp.array([[0.4], [0.4], [1.0]]), "bias": jnp.zeros(1)}
      >>> x = jnp.array([[1.0, 1.0, 0.0], [3.0, 3.0, 1.0], [2.0, 3.0, 5.0]])
      >>> grid = {"w": jc.Grid(jnp.ones((1, 1)), jnp.zeros((1, 1), int))}
      >>> new = round_weights(layer, params, [x], Scheme(4, inputs=None), grids=grid)
      >>> new.params["w"].ravel().tolist(), round(new.params["bias"].item(), 2)
      ([1.0, 0.0, 1.0], -0.27)

    Reference: Frantar et al., GPTQ, 2023; Behdin et al., QuantEase, 2023; Nagel et al., Up or down?, 2020 (AdaRound),
    and Data-free quantization through weight equalization and bias correction, 2019.
    """
    params = as_arrays(params)
    given, named = checked_batches(apply_fn, params, batches, select), named_leaves(params)
    settings = _settings(method, inputs, damping, act_order, sweeps, steps)
    check_unquantized(params, "round_weights")
    program = trace(apply_fn, params, *given[0])
    targets, fixed = find_targets(program, scheme, params), dict(grids or {})
    uses = with_factors(program, uses_of(program), jax.tree.leaves(params))
    own = {path: uses[path] for path in targets.weights}
    blind = {path: why for path, each in own.items() if (why := unseen(each, program, "inputs"))}
    found = {path: nearest(targets.weights[path], named[path], fixed.get(path)) for path in blind}
    means = find_biases(program, own) if biases else Biases({}, {})

    def solve(path: str, use: Use, seen: Seen) -> Any:
        target, leaf, grid = targets.weights[path], named[path], fixed.get(path)
        check_finite({path: seen.now}, "on the data the input of ")
        if not seen.now.any():
            blind[path] = "what it reads on the data is 0"
            found[path] = nearest(target, leaf, grid)
        else:
            seen = seen.centred() if path in means.of else seen
            found[path] = rounded(target, use, leaf, seen, grid, settings)
        return found[path].leaf

    sites = {path: each.sites for path, each in own.items() if path not in blind}
    set_ = [bias for path in own for bias in means.of.get(path, ())]
    walk = Walk(program, sites, solve, places, altered_inputs(targets, uses, ranges or {}), set_)
    start = replace_leaves(params, {path: each.leaf for path, each in found.items()})
    new = walk.run(jax.tree.leaves(params), [jax.tree.leaves(batch) for batch in given], jax.tree.leaves(start))
    solved = {path: each.leaf for path, each in found.items()}
    moved = {bias.path: new[bias.path] for bias in set_ if bias.path in new}

    def row(path: str) -> RoundRow:
        if path not in found:
            return RoundRow(path, np.shape(named[path]), left=targets.left[path])
        error, whole = walk.errors.get(path, (0.0, 0.0))
        return RoundRow(
            path,
            np.shape(named[path]),
            targets.weights[path].scheme.format.name,
            "nearest" if path in blind else method,
            found[path].back,
            error / whole if whole else None,
            ", ".join(bias.path for bias in means.of.get(path, ())) or means.missing.get(path, "not asked for"),
            blind.get(path, ""),
        )

    rows = tuple(row(path) for path in program.paths if path in found or path in targets.left)
    others = left_out(program, {row.path for row in rows} | moved.keys())
    grids_of = {path: each.grid for path, each in found.items()}
    return Rounded(replace_leaves(params, solved | moved), grids_of, RoundReport(rows, others))


def _settings(method: Any, inputs: Any, damping: float, act_order: bool, sweeps: int, steps: int) -> Settings:
    for name, value, known in (
        ("method", method, ("gptq", "adaround", "nearest")),
        ("inputs", inputs, ("corrected", "rounded")),
    ):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if not damping >= 0:
        raise ArgumentError(f"damping must be at least 0, got {damping!r}")
    for name, number in (("sweeps", sweeps), ("steps", steps)):
        if not isinstance(number, int) or number < (name == "steps"):
            raise ArgumentError(f"{name} must be a whole number of at least {int(name == 'steps')}, got {number!r}")
    return Settings(method, inputs == "corrected", damping, act_order, sweeps, steps)
