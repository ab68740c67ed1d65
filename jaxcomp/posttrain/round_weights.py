"""Rounding: weights on the grids of a scheme, layer by layer on data, so that outputs stay what they were."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.progress import Progress, shows_progress, told
from jaxcomp.core.types import Grid, Note, Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.observe.evidence import Evidence
from jaxcomp.posttrain.fit_bytes import file_size, first_rate, within
from jaxcomp.posttrain.in_turn import InTurn
from jaxcomp.posttrain.quantized_inputs import altered_inputs
from jaxcomp.posttrain.round_layer import (
    RoundMethod,
    Settings,
    Solution,
    fitted,
    least_squares,
    nearest,
    rounded,
    searches,
)
from jaxcomp.posttrain.round_priced import rate_of
from jaxcomp.posttrain.round_report import RoundReport
from jaxcomp.rewrite.quant.scheme import INT8, Schemes
from jaxcomp.rewrite.quant.targets import Target, find_targets, reached
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import Use, uses_of


class Rounded(NamedTuple):
    """Rounded parameters.

    Attributes:
      params: of the same structure, shapes and dtypes as before; weights are on their grids.
      grids: ``{path: grid}``, for :func:`jaxcomp.rewrite.quantize`.
      report: the treatment of each weight.
    """

    params: Params
    grids: dict[str, Grid]
    report: RoundReport

    @property
    def notes(self) -> dict[str, Note]:
        """The notes by which :func:`jaxcomp.pack.save` stores codes."""
        formats = {row.path: row.format for row in self.report.rows}
        return {path: Note(grid=grid, format=formats[path]) for path, grid in self.grids.items()}


@shows_progress
def round_weights(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    scheme: Schemes = INT8,
    *,
    method: RoundMethod = "gptq",
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
    reference: Literal["corrected", "rounded"] = "corrected",
    biases: bool = True,
    damping: float = 0.01,
    act_order: bool = True,
    sweeps: int = 4,
    steps: int = 500,
    places: int | None = None,
    rate: float | None = None,
    file_bytes: int | None = None,
    fisher: Params | None = None,
    select: Select | None = None,
    progress: Progress = None,
) -> Rounded:
    r"""Rounds weights layer by layer so that, on data, the layers' outputs change least; nothing is trained.

    Of a layer with weights W and inputs x :math:`\sum |W^\top x - W'^\top x'|^2 + \lambda |W - W'|^2` is kept small,
    x' being what the layers before it now give, quantized if the scheme has it so. ``gptq``: input after input,
    those that follow make up for each, and then code by code (:func:`jaxcomp.quant.descend`). ``adaround``: each weight
    up or down, learned. ``nearest``: as :func:`quantize` does. Of less than 8 bits, where a scheme has no ``fit`` and
    no grid is given, the part of the range that a grid reaches over is chosen by that error too, output by output if
    they have scales of their own. Zeros stay zero.

    Every fourth example (of two or three the last; of one alone the last quarter of its places) is held out: nothing is
    fitted to it. Correlations of inputs count as far as those of the others agree with its own, layers aim at what the
    float network computes as far as that serves it, and the result is kept, layer by layer and output by output, where
    it is better than rounding to the nearest on both: examples that are too few change nothing. The report's errors are
    those of what was held out.

    With a ``rate`` the result is small as a file: a weight becomes the number on its grid where its error and the bits
    that it takes cost least together, by the model that :func:`jaxcomp.pack.save` codes with, and the others make up
    for the error; grids of integers, without ``fit``, have the steps at which that is least. One scale a layer
    (``Scheme(6, axis=None, inputs=None)``) makes the smallest files: it is stored once, and outputs of little use take
    few bits anyway. Outputs that differ widely need ``Scheme(8, inputs=None)``: scales of their own, of 4 bits.

    Where a site has a bias, or a batch norm's mean, that nothing else reads, it takes up the mean of the error over all
    examples, unless that is no more than chance makes it.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one). What they
        are in a layer is held in memory, for all of them.
      scheme: a :class:`Scheme`, or rules of them, as of :func:`quantize`.
      method: see above.
      ranges: ``{path: grid}`` of static inputs: :func:`calibrate`.
      grids: ``{path: grid}`` of weights, for those that are not to be fitted.
      reference: ``"corrected"``: layers aim at what the float network computes; ``"rounded"``: at what they themselves
        did, on the inputs as they are now. Inside of loops the latter, on inputs that are not quantized.
      biases: whether they are corrected.
      damping: :math:`\lambda`, in units of the inputs' mean square.
      act_order: of ``gptq``: whether the inputs of the largest squares come first.
      sweeps: of ``gptq``: code by code, over all inputs.
      steps: of ``adaround``.
      places: of each result of a convolution, how many pixels count at most; None: all.
      rate: the worth of a bit in the file, in parts of a layer's mean squared results; None: nothing. Of layers of
        10,000 weights about 5e-7 for 4 bits a weight, 4e-5 for 1.
      file_bytes: a budget for the file of :func:`jaxcomp.pack.save`, with :attr:`Rounded.notes`: the rate is searched
        for, by some such calls, from ``rate`` on if it is given. Of few examples each weight is rounded for itself
        where that is better.
      fisher: with a rate or a budget, what the loss feels of weights (:func:`jaxcomp.observe.fisher_diagonal` of
        :func:`jaxcomp.observe.output_gradients`): layers and outputs of which it feels little get few bits.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The parameters, their grids (``quantize(..., grids=rounded.grids)`` ships these very numbers), and a report that
      prints as a table.

    Raises:
      ArgumentError: for an argument out of range, static inputs without a range, no batch, batches of several
        shapes, a budget that no rate keeps to, grids with zero points beside a rate, and what is not finite (the weight
        is named); RuleError: for a rule that applies to no weight.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxcomp as jc
      >>> from jaxcomp.rewrite import Scheme
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> params = {"w": jnp.array([[0.4], [0.4], [1.0]]), "bias": jnp.zeros(1)}
      >>> x = jnp.tile(jnp.array([[1.0, 1.0, 0.0], [3.0, 3.0, 1.0], [2.0, 3.0, 5.0]]), (16, 1))
      >>> grid = {"w": jc.Grid(jnp.ones((1, 1)), jnp.zeros((1, 1), int))}
      >>> new = round_weights(layer, params, [x], Scheme(4, inputs=None), grids=grid)
      >>> new.params["w"].ravel().tolist(), round(new.params["bias"].item(), 2)
      ([1.0, 0.0, 1.0], -0.27)

    Reference: Frantar et al., GPTQ, 2023; Behdin et al., QuantEase, 2023; Nagel et al., Up or down?, 2020 (AdaRound),
    and Data-free quantization through weight equalization and bias correction, 2019.
    """
    params = concrete(params, "round_weights")
    check_unquantized(apply_fn, params, "round_weights")
    given, named = checked_batches(apply_fn, params, batches, select), named_leaves(params)
    settings = _settings(method, reference, damping, act_order, sweeps, steps)
    program = trace(apply_fn, params, *given[0])
    targets, fixed = reached(find_targets(program, scheme, params), ranges), grids or {}
    uses = with_factors(program, uses_of(program), jax.tree.leaves(params))
    own = {path: uses[path] for path in targets.weights}
    if file_bytes is not None:
        begin = rate or first_rate(file_bytes, {path: named[path].size for path in own})
        again = functools.partial(
            round_weights,
            apply_fn,
            params,
            given,
            scheme,
            method=method,
            ranges=ranges,
            grids=grids,
            reference=reference,
            biases=biases,
            damping=damping,
            act_order=act_order,
            sweeps=sweeps,
            places=places,
            fisher=fisher,
            progress=told(progress),
        )
        return within(file_bytes, begin, lambda rate: again(rate=rate), lambda new: file_size(new.params, new.notes))
    settings = settings._replace(rate=rate_of(rate, fisher, method, {path: named[path] for path in own}))
    grids_of, widest = _grids(targets.weights, named, fixed, method, settings.rate is not None)

    def near(path: str, reached: bool) -> Solution:
        return nearest(targets.weights[path], named[path], (grids_of if reached else widest)[path])

    def better(path: str, use: Use, known: Evidence, plain: Solution) -> Solution:
        return rounded(targets.weights[path], use, named[path], known, widest[path], settings, plain)

    layers = InTurn(
        program,
        params,
        given,
        own,
        near,
        None if method == "nearest" else better,
        biases=biases,
        places=places,
        altered=altered_inputs(targets, uses, ranges or {}),
        apart=bool(getattr(ranges, "judging", None)),
        judged=settings.rate is None,  # with a rate the nearest take other bytes: that errors are larger is meant
        what=method,
        progress=progress,
    )
    methods = {
        path: (targets.weights[path].scheme.format.name, "nearest" if path in layers.blind else method) for path in own
    }
    report = layers.report(named, methods, targets.skipped)
    return Rounded(layers.new_params, {path: each.grid for path, each in layers.found.items()}, report)


def _grids(
    targets: Mapping[str, Target],
    named: Mapping[str, Any],
    fixed: Mapping[str, Grid],
    method: RoundMethod,
    priced: bool,
) -> tuple[dict[str, Grid], dict[str, Grid]]:
    """The grids whose nearest is the plain method, and those with which a search for a reach begins."""
    plain = {path: least_squares(own, None, method) for path, own in targets.items() if path not in fixed}
    wide = [path for path in plain if searches(targets[path], None, method, priced)]
    wanted = [*plain.values(), *(targets[path] for path in wide)]
    grids = fitted(wanted, [named[path] for path in (*plain, *wide)])
    first = dict(zip(plain, grids, strict=False)) | dict(fixed)
    return first, first | dict(zip(wide, grids[len(plain) :], strict=True))


def _settings(method: Any, reference: Any, damping: float, act_order: bool, sweeps: int, steps: int) -> Settings:
    for name, value, known in (
        ("method", method, ("gptq", "adaround", "nearest")),
        ("reference", reference, ("corrected", "rounded")),
    ):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if not damping >= 0:
        raise ArgumentError(f"damping must be at least 0, got {damping!r}")
    for name, number in (("sweeps", sweeps), ("steps", steps)):
        if not isinstance(number, int) or number < (name == "steps"):
            raise ArgumentError(f"{name} must be a whole number of at least {int(name == 'steps')}, got {number!r}")
    return Settings(method, reference == "corrected", damping, act_order, sweeps, steps)
