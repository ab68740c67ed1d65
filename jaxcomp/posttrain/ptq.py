"""Post-training quantization in one call: fold, calibrate, round, quantize."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from jaxcomp.core.arrays import concrete
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.progress import Progress, shows_progress
from jaxcomp.core.tables import with_left_out
from jaxcomp.core.types import Params
from jaxcomp.observe.batches import Select, checked_batches
from jaxcomp.posttrain.round_layer import RoundMethod
from jaxcomp.posttrain.round_report import RoundReport
from jaxcomp.posttrain.round_weights import round_weights
from jaxcomp.quant.ranges import Fit
from jaxcomp.rewrite.folding.batch_norm import Folded, fold_batch_norm
from jaxcomp.rewrite.folding.report import FoldReport
from jaxcomp.rewrite.folding.weights import fold_weights
from jaxcomp.rewrite.quant.calibrate import calibrate
from jaxcomp.rewrite.quant.quantize import Quantized, quantize
from jaxcomp.rewrite.quant.report import QuantReport
from jaxcomp.rewrite.quant.scheme import INT8, Scheme, Schemes
from jaxcomp.rewrite.quant.targets import find_targets, schemes_without
from jaxcomp.trace.account import left_out
from jaxcomp.trace.first_and_last import ends
from jaxcomp.trace.integer_weights import check_unquantized
from jaxcomp.trace.ir import trace
from jaxcomp.trace.once import once


@dataclass(frozen=True)
class PostReport:
    """The treatment of each weight; prints as tables.

    Attributes:
      computed: which weights, computed of parameters, became parameters; None if there were none.
      folded: which batch norms became part of layers; None if there were none to fold.
      rounded: how weights were rounded.
      quantized: the layers that run in integers, and the others.
      left_out: ``{path: what reads it}`` of the parameters that none of these names.
    """

    computed: FoldReport | None
    folded: FoldReport | None
    rounded: RoundReport
    quantized: QuantReport
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        found = (self.computed, self.folded, self.rounded, self.quantized)
        tables = [str(replace(part, left_out={})) for part in found if part is not None]
        return with_left_out("\n\n".join(tables), self.left_out)


class PostTrained(NamedTuple):
    """A quantized function.

    Attributes:
      apply_fn: ``apply_fn(params, *inputs)``, in integers.
      params: its parameters.
      report: of all steps.
    """

    apply_fn: Quantized
    params: Params
    report: PostReport


@shows_progress
@once
def ptq(
    apply_fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    scheme: Schemes = INT8,
    *,
    method: RoundMethod = "gptq",
    end_bits: int | None = 8,
    biases: bool = True,
    fit: Fit | None = None,
    damping: float = 0.01,
    places: int | None = 256,
    select: Select | None = None,
    progress: Progress = None,
) -> PostTrained:
    """Quantizes a trained function on a few hundred examples, without labels and without training (PTQ).

    Makes parameters of weights that are computed of others (:func:`fold_weights`), folds batch norms
    (:func:`fold_batch_norm`), finds the ranges of what sites read (:func:`calibrate`), rounds the weights layer by
    layer and corrects biases (:func:`round_weights`), and ships the integers (:func:`quantize`). Call these one by one
    for another order.

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function, for inference.
      params: parameters alone or a whole tree of variables.
      batches: calibration batches of one shape, each the tuple of the other arguments (or the single one): some hundred
        examples, of images those that the network was trained on, augmented alike.
      scheme: how weights are quantized, and what they are multiplied by: a :class:`Scheme` for all of them; rules
        ``[(regex, Scheme or None), ...]``; or ``{path: Scheme or None}``, as of :func:`jaxcomp.search.allocate`.
      method: ``"gptq"``, ``"adaround"`` or ``"nearest"`` (which wants a scheme with ``fit=jaxcomp.quant.mse()`` below 8
        bits; the others choose the reach of a grid themselves where the scheme has no fit).
      end_bits: the bits of the first and of the last layers' weights, and of their inputs, where one scheme is for all
        and has fewer; None: as all others.
      biases: whether they take up the mean of the error.
      fit: how far the grids of inputs reach; None: as :func:`calibrate` has it.
      damping, places: of the layers' second moments: see :func:`round_weights`.
      select: the inputs of each batch, a key or a function of it: :mod:`jaxcomp.observe.batches`.
      progress: how far the call is: None: on terminals; True, False; or called with (done, total, what).

    Returns:
      The integer function, its parameters, and a report that prints as tables. A weight whose inputs are 0 in all the
      data stays in floating point; the report says so.

    Raises:
      ArgumentError: for an option out of range, no batch, batches of several shapes, or inputs that are not finite on
        the data (the weight is named).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> mlp = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
      >>> params = {"a": jnp.eye(4), "b": jnp.ones(4), "c": jnp.arange(8.0).reshape(4, 2)}
      >>> x = jnp.linspace(-1, 1, 32).reshape(8, 4)
      >>> new = ptq(mlp, params, [x])
      >>> bool(jnp.allclose(new.apply_fn(new.params, x), mlp(params, x), atol=0.2))
      True

    Reference: Nagel et al., A white paper on neural network quantization, 2021.
    """
    params = concrete(params, "ptq")
    check_unquantized(apply_fn, params, "ptq")
    given = checked_batches(apply_fn, params, batches, select)
    function, folded, computed = _folded(fold_weights, apply_fn, params, given[0])
    function, folded, norms = _folded(fold_batch_norm, function, folded, given[0])
    chosen = _with_ends(function, folded, given[0], scheme, end_bits)
    ranges = calibrate(function, folded, given, chosen, fit=fit, progress=progress)
    chosen = schemes_without(chosen, trace(function, folded, *given[0]), ranges.skipped)
    rounded = round_weights(
        function,
        folded,
        given,
        chosen,
        method=method,
        ranges=ranges,
        biases=biases,
        damping=damping,
        places=places,
        progress=progress,
    )
    integers, packed = quantize(function, rounded.params, *given[0], scheme=chosen, ranges=ranges, grids=rounded.grids)
    told = {path for report in (computed, norms) if report is not None for path in report.told}
    told |= {row.path for row in integers.report.rows}
    told |= named_leaves(folded).keys() - rounded.report.left_out.keys()
    others = left_out(trace(apply_fn, params, *given[0]), told)
    report = PostReport(computed, norms, rounded.report, integers.report, others)
    return PostTrained(integers, packed, report)


def _folded(
    fold: Callable[..., tuple[Folded, Params]], apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...]
) -> tuple[Callable[..., Any], Params, FoldReport | None]:
    """Folds a function, and returns the report; the function and None where there is nothing to fold."""
    new, changed = fold(apply_fn, params, *example)
    return (apply_fn, params, None) if new.report.is_empty else (new, changed, new.report)


def _with_ends(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], scheme: Schemes, end_bits: int | None
) -> Schemes:
    """The scheme as given; or by path, if the first and the last layers have more bits than it."""
    if end_bits is not None and not 1 <= end_bits <= 8:
        raise ArgumentError(f"end_bits must be 1 to 8, or None, got {end_bits!r}")
    if end_bits is None or not isinstance(scheme, Scheme):
        return scheme
    finer = scheme
    if scheme.format.bits < end_bits:
        finer = finer._replace(bits=end_bits, fit=None)
    if scheme.inputs is not None and scheme.input_format.bits < end_bits:
        finer = finer._replace(input_bits=end_bits)
    first, last = ends(apply_fn, params, *example)
    paths = list(find_targets(trace(apply_fn, params, *example), scheme).weights)
    if finer == scheme or not {*first, *last}.intersection(paths):
        return scheme
    return {path: finer if path in (*first, *last) else scheme for path in paths}
