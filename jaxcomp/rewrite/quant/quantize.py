"""Quantize: the same function with weights held as integer codes, and its matmuls and convolutions done in integers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.calls import arguments
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.meshes import replicated
from jaxcomp.core.paths import leaves_of, named_leaves, replace_leaves
from jaxcomp.core.programs import compiled
from jaxcomp.core.types import Grid, Params
from jaxcomp.rewrite.quant.calibrate import Ranges
from jaxcomp.rewrite.quant.encode import encode, encode_to_train
from jaxcomp.rewrite.quant.integers import QuantizedRun, sites_in
from jaxcomp.rewrite.quant.report import QuantReport, QuantRow, report_of
from jaxcomp.rewrite.quant.scheme import INT8, Schemes
from jaxcomp.rewrite.quant.targets import Target, Targets, find_targets, reached
from jaxcomp.rewrite.rewritten import Born, RewrittenPacked, leaf_data, leaf_from
from jaxcomp.trace.account import left_out
from jaxcomp.trace.integer_weights import Rounding, check_reads_weights
from jaxcomp.trace.ir import Node, Program, Value, all_nodes, trace
from jaxcomp.trace.liveness import values_inside
from jaxcomp.trace.once import once
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.sites import check_reads


@once
def quantize(
    apply_fn: Callable[..., Any],
    params: Params,
    *example: Any,
    scheme: Schemes = INT8,
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
) -> tuple["Quantized", Params]:
    r"""Quantizes a function (:func:`jaxcomp.quant.quantize` an array): its weights are integer codes, its products too.

    With codes q, scales s and zero points z of weights (w) and inputs (x) a site computes
    :math:`s_x s_w \sum (q_x - z_x)(q_w - z_w)`, the sum in int32 over products of int8. What its sites read is
    quantized as they read it. Codes of up to 4 bits are held two (up to 2 bits: four) to a byte.

    A weight is quantized where matmuls or convolutions (strided, dilated, grouped, depthwise, of any layout) read it,
    through casts, transposes, reshapes, products with a number, and into scan (stacked weights: each layer on grids of
    its own), remat, cond and custom derivatives. Other readers are given its value. The report names what stays in
    floating point, and why. Fold batch norms first (:func:`fold_batch_norm`).

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables; shapes will do, for a function whose parameters come from a
        file.
      *example: the other arguments, or their shapes.
      scheme: a :class:`Scheme` for all weights; rules ``[(regex, Scheme or None), ...]``, of which the first that
        matches the whole path counts; or ``{path: Scheme or None}``, of exact paths. None, and what is not named, stays
        as it is. So the first and the last layer have their own.
      ranges: ``{path: grid}`` of what the sites of weights with static inputs read: :func:`calibrate`. Without any,
        inputs inside of shard_map and pmap stay in floating point, and the report says so.
      grids: ``{path: grid}`` of weights, for those that are not to be fitted to their values' range: of the state of
        :func:`jaxcomp.quant.fake` that they were trained with.

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters, in which a quantized weight is a
      :class:`jaxcomp.rewrite.Packed` of ``codes``, ``scale``, and where they are needed ``zero_point``, ``input_scale``
      ``input_zero_point`` and ``sums`` of codes. It computes what :func:`fake_quantize` does.

    Raises:
      ArgumentError: for a scheme out of range, static inputs without a range, a grid of another shape (the weight is
        named), and what is quantized already (weights that are not can be, by rules or by one scheme for all);
        RuleError: for a rule that applies to no weight.

    Example:
      >>> from jaxcomp.rewrite import calibrate
      >>> params = {"w": jnp.array([[1.27, 0.5], [-1.0, 0.02]]), "bias": jnp.ones(2)}
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> x = jnp.array([[2.55, 0.5]])
      >>> new, packed = quantize(layer, params, x, ranges=calibrate(layer, params, [x]))
      >>> packed["w"].parts["codes"].tolist()
      [[127, 127], [-100, 5]]
      >>> print(new.report)
      weight  shape  format  inputs    bytes  before
      ------  -----  ------  --------  -----  ------
      w       2x2         8  static 8     28      16
      ------  -----  ------  --------  -----  ------
      total                               28      16
      format: bits of a weight, or its name; inputs: how layer inputs are quantized, and to how many bits
      left out: bias (read by add: no matmul or convolution)
      >>> jnp.allclose(new(packed, x), layer(params, x), atol=0.01)
      Array(True, dtype=bool)

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    params = as_arrays(params)
    named = named_leaves(params)
    check_reads_weights(apply_fn, "quantize")
    program, targets = _targets(apply_fn, params, example, scheme, ranges)
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in named.values())
    if ranges is None and not abstract:
        targets = _inputs_left(program, targets)
    known = _checked_ranges({**_unknown(targets, named), **(ranges or {})} if abstract else dict(ranges or {}), targets)

    given = dict(grids or {})
    packed = {path: _encoded(own, named[path], given, known, abstract) for path, own in targets.weights.items()}
    report = report_of(program, example, packed, targets, named)
    new = Quantized(apply_fn, params, packed, report, Born(example, program, sites_in(program)))
    return new, replace_leaves(params, packed)


def _encoded(target: Target, leaf: Any, grids: Mapping[str, Grid], ranges: Mapping[str, Grid], abstract: bool) -> Codes:
    """A parameter as codes, by one small program for all that are encoded alike."""
    path, bits = target.path, target.scheme.format.bits
    nameless = dataclasses.replace(target, path="")

    def run(leaf: Any, grids: Mapping[str, Grid], ranges: Mapping[str, Grid], target: Target = nameless) -> Codes:
        return encode(target, leaf, grids, ranges).in_bytes(bits)

    # Grids are arguments: by a constant a compiler does not divide as training did, but multiplies by its inverse.
    given = leaf, *({"": own[path]} if path in own else {} for own in (grids, ranges))
    try:
        codes = jax.eval_shape(run, *given) if abstract else compiled(run, key=("encode", nameless))(*given)
    except ArgumentError:  # which says it of no path
        codes = run(leaf, grids, ranges, target)
    return codes.of(path)


class Quantized(RewrittenPacked[frozenset[Node]]):
    """A function that computes with integers. Made by :func:`quantize`.

    Attributes:
      report: the treatment of each weight.
    """

    name = "quantize"

    def __init__(
        self, apply_fn: Callable[..., Any], params: Params, packed: Mapping[str, Codes], report: QuantReport, born: Born
    ):
        """Takes the quantized weights, arrays or shapes, by path."""
        decision = {"leaves": {path: leaf_data(leaf) for path, leaf in packed.items()}, "rows": list(report.rows)}
        formats = ", ".join(sorted({row.format for row in report.rows if row.format}))
        said = f"{len(packed)} weights of {formats} bits" if packed else "nothing"
        super().__init__(apply_fn, params, packed, report=report, decision=decision, said=said, born=born)

    def plan(self, program: Program) -> frozenset[Node]:
        """Finds the sites."""
        return sites_in(program)

    def interpreter(self, program: Program, plan: frozenset[Node]) -> QuantizedRun:
        """Returns the interpreter that runs ``program`` by its ``plan``."""
        return QuantizedRun(plan)

    def operands(self, leaves: list[Any]) -> list[Any]:
        """Unpacks the codes of the leaves, one to a byte."""
        return super().operands([leaf.opened() if isinstance(leaf, Codes) else leaf for leaf in leaves])


def restored(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], data: Mapping[str, Any]
) -> tuple[Quantized, Params]:
    """Makes the function of a decision ``data`` again, and the shapes of its parameters.

    ``apply_fn`` is the original, ``params`` its parameters or their shapes, ``example`` the other arguments.
    """
    program = trace(apply_fn, params, *example)
    packed: dict[str, Any] = {path: leaf_from(leaf, Codes) for path, leaf in data["leaves"].items()}
    rows = tuple(QuantRow(path, tuple(shape), *rest) for path, shape, *rest in data["rows"])
    report = QuantReport(rows, left_out(program, {row.path for row in rows}))
    new = Quantized(apply_fn, params, packed, report, Born(example, program, sites_in(program)))
    return new, replace_leaves(params, packed)


def fake_quantize(
    apply_fn: Callable[..., Any],
    params: Params,
    *example: Any,
    scheme: Schemes = INT8,
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
) -> tuple["FakeQuantized", Params]:
    """Rounds in a function (:func:`jaxcomp.quant.fake_quantize` an array) as :func:`quantize` would, to train it.

    At every site weights and inputs are rounded to their codes, which floating-point numbers hold; sums of these are
    exact up to ``2**24``, so the integer function computes the very same. Gradients pass rounding straight through, and
    stop where codes are clipped.

    Args:
      apply_fn, params, example, scheme, ranges, grids: as of :func:`quantize`. Weights without a grid are fitted to
        their range at every call.

    Returns:
      The new function and its parameters, which are ``params``. The function may be called with ``ranges=`` and
      ``grids=``: for the paths that they name, they replace those given here. In a training step, call it with those of
      the step's state, as arguments of the jitted step: by a constant scale a compiler may divide otherwise, and round
      a half to the other side.

    Raises:
      As :func:`quantize`.

    Example:
      >>> from jaxcomp.rewrite import Scheme
      >>> layer = lambda p, x: x @ p["w"]
      >>> params, x = {"w": jnp.array([[0.26], [-0.7]])}, jnp.array([[1.0, 1.0]])
      >>> fake, params = fake_quantize(layer, params, x, scheme=Scheme(bits=2, inputs=None))
      >>> round(fake(params, x).item(), 3), jax.grad(lambda p: fake(p, x).sum())(params)["w"].tolist()
      (-0.7, [[1.0], [1.0]])

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    params = as_arrays(params)
    check_reads_weights(apply_fn, "fake_quantize")
    program, targets = _targets(apply_fn, params, example, scheme, ranges)
    known = Ranges(_checked_ranges(dict(ranges or {}), targets), getattr(ranges, "skipped", {}))
    born = Born(example, program, sites_in(program))
    return FakeQuantized(apply_fn, params, scheme, targets, known, dict(grids or {}), born), params


class FakeQuantized(RewrittenPacked[frozenset[Node]], Rounding):
    """A function that rounds as integers would. Made by :func:`fake_quantize`."""

    name = "fake_quantize"
    made_by = ("fake_quantize", "the integers are what quantize gives with the same arguments")

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        scheme: Schemes,
        targets: Targets,
        ranges: Ranges,
        grids: dict[str, Grid],
        born: Born,
    ):
        """Takes what is quantized, and on which grids."""
        self._targets, self._ranges, self._grids = targets, ranges, grids
        self.skipped = targets.skipped
        decision = {"scheme": scheme, "ranges": ranges, "grids": grids}
        said = f"{len(targets.weights)} weights"
        super().__init__(apply_fn, params, {}, decision=decision, said=said, born=born)

    def __call__(
        self,
        *args: Any,
        ranges: Mapping[str, Grid] | None = None,
        grids: Mapping[str, Grid] | None = None,
        **named: Any,
    ) -> Any:
        params, inputs = arguments(self.__wrapped__, args, named)
        held = {**self._ranges, **(ranges or {})}, {**self._grids, **(grids or {})}
        return self.run_whole(leaves_of(as_arrays(params), self._paths), inputs, *held)

    def run(
        self,
        leaves: list[Any],
        inputs: tuple[Any, ...],
        ranges: Mapping[str, Grid] | None = None,
        grids: Mapping[str, Grid] | None = None,
    ) -> Any:
        """Runs the function, rounded on grids; where it is compiled they are arguments.

        Args:
          leaves: of its parameters, as of :meth:`leaves`.
          inputs: its other arguments.
          ranges: grids of inputs, by path; None: its own.
          grids: of weights, by path; None: its own.
        """
        weights = self._targets.weights
        given = [replicated(leaf) if path in weights else leaf for path, leaf in zip(self._paths, leaves, strict=True)]
        program, sites = self._plans(given, inputs)
        known = self._grids if grids is None else grids, self._ranges if ranges is None else ranges
        rounded = [
            encode_to_train(weights[path], leaf, *known) if path in weights else leaf
            for path, leaf in zip(self._paths, given, strict=True)
        ]
        return self.run_with(QuantizedRun(sites), program, sites, rounded, inputs)

    def plan(self, program: Program) -> frozenset[Node]:
        """Finds the sites."""
        return sites_in(program)


def _targets(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], scheme: Schemes, ranges: Any
) -> tuple[Program, Targets]:
    if not isinstance(ranges, Mapping | None):
        raise ArgumentError(
            f"ranges must be {{path: grid}}, as jc.rewrite.calibrate(apply_fn, params, batches, scheme) returns, got "
            f"{type(ranges).__name__}"
        )
    program = trace(apply_fn, params, *example)
    check_reads(program)
    return program, reached(find_targets(program, scheme, params), ranges)


def _inputs_left(program: Program, targets: Targets) -> Targets:
    """Without the inputs of weights that are read inside of shard_map alone, of which no range was given.

    What devices read there is not a value of the function; that a range is needed at all is for the report to say.
    """
    inside = set[Value]().union(*(values_inside(n) for n in all_nodes(program.frame) if n.op == "shard_map"))
    paths = {path for group in targets.shared if inside.issuperset(group.values) for path in group.paths}
    weights = {
        path: dataclasses.replace(target, scheme=target.scheme._replace(inputs=None), stack=())
        if path in paths
        else target
        for path, target in targets.weights.items()
    }
    why = "its inputs, inside of shard_map, have no range: give ranges= of jaxcomp.rewrite.calibrate"
    return targets._replace(weights=weights, skipped={**targets.skipped, **dict.fromkeys(paths, why)})


def _checked_ranges(ranges: dict[str, Grid], targets: Targets) -> dict[str, Grid]:
    for path, grid in ranges.items():
        if not isinstance(grid, Grid):
            raise ArgumentError(
                f"ranges must be {{path: Grid}}, as jc.rewrite.calibrate returns, got {grid!r:.40} for {path!r}"
            )
    for path in ranges.keys() & targets.weights.keys():
        scale = ranges[path].scale
        known = not isinstance(scale, jax.ShapeDtypeStruct | jax.core.Tracer)
        if known and not (np.isfinite(scale).all() and (np.asarray(scale) > 0).all()):
            raise ArgumentError(
                f"the grid of the inputs of {path!r} has scale {np.asarray(scale)}: it must be positive and "
                "finite; calibrate on data that reach it"
            )
    return ranges


def _unknown(targets: Targets, named: Mapping[str, Any]) -> dict[str, Grid]:
    """Grids of no meaning, for a function whose parameters have none yet."""
    shapes = {path: tuple(named[path].shape[i] for i in own.stack) for path, own in targets.weights.items()}
    return {path: Grid(jnp.ones(shape), jnp.zeros(shape, jnp.int32)) for path, shape in shapes.items()}
