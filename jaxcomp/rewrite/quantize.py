"""Quantise: the same function with weights held as integer codes, and its matmuls and convolutions done in integers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves, replace_leaves
from jaxcomp.core.tables import dims, table
from jaxcomp.core.types import Grid, Params
from jaxcomp.rewrite.encode import encode
from jaxcomp.rewrite.integers import QuantizedRun
from jaxcomp.rewrite.packed_function import PackedFunction, programs, run_packed
from jaxcomp.rewrite.schemes import INT8, Targets, find_targets
from jaxcomp.trace.codes import Codes
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.sites import check_reads, sites_of
from jaxcomp.trace.uses import uses_of


class QuantRow(NamedTuple):
    """What became of one weight that a matmul or convolution reads.

    Attributes:
      path: the weight.
      shape: its own.
      bits: of its codes; None if it stays as it is.
      inputs: how what its sites read is quantised, as ``"static 8"``; ``""`` if it is not.
      left: why it, or what its sites read, is not quantised as asked; what else reads its value.
      bytes: of everything in its place.
      dense_bytes: its own, before.
    """

    path: str
    shape: tuple[int, ...]
    bits: int | None
    inputs: str
    left: str
    bytes: int
    dense_bytes: int


@dataclass(frozen=True)
class QuantReport:
    """What became of every weight that a matmul or convolution reads; prints as a table."""

    rows: tuple[QuantRow, ...]

    def __str__(self) -> str:
        rows = [
            [r.path, dims(r.shape), str(r.bits or ""), r.inputs, r.left, f"{r.bytes:,}", f"{r.dense_bytes:,}"]
            for r in self.rows
        ]
        total = [f"{sum(getattr(row, name) for row in self.rows):,}" for name in ("bytes", "dense_bytes")]
        columns = ["weight", "shape", "bits", "inputs", "in floating point because", "bytes", "before"]
        return table(columns, rows, ["total", "", "", "", "", *total])


def quantize(
    apply_fn: Callable[..., Any],
    params: Params,
    *example: Any,
    scheme: Any = INT8,
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
) -> tuple["Quantized", Params]:
    r"""Holds weights as integer codes, and multiplies integers by integers.

    With codes q, scales s and zero points z of weights (w) and inputs (x) a site computes
    :math:`s_x s_w \sum (q_x - z_x)(q_w - z_w)`, the sum in int32 over products of int8. What its sites read is
    quantised as they read it. Codes of up to 4 bits are held two (up to 2 bits: four) to a byte.

    A weight is quantised where matmuls or convolutions (strided, dilated, grouped, depthwise, of any layout) read it,
    through casts, transposes, reshapes, products with a number, and into scan (stacked weights: each layer on grids of
    its own), remat, cond and custom derivatives. Other readers are given its value. The report names what stays in
    floating point, and why. Fold batch norms first (:func:`fold_batch_norm`).

    Args:
      apply_fn: ``apply_fn(params, *inputs)``: any JAX function.
      params: parameters alone or a whole tree of variables; shapes will do, for a function whose parameters come from a
        file.
      *example: the other arguments, or their shapes.
      scheme: a :class:`Scheme` for all weights, or ``[(regex, Scheme or None), ...]``: the first that matches the whole
        path counts, and what none matches, or None, stays as it is. So the first and the last layer have their own.
      ranges: ``{path: grid}`` of what the sites of weights with static inputs read: :func:`calibrate`.
      grids: ``{path: grid}`` of weights, for those that are not to be fitted to their values' range: of the state of
        :func:`jaxcomp.quant.fake` that they were trained with.

    Returns:
      The new function, whose ``report`` prints as a table, and its parameters, in which a quantised weight is a
      :class:`jaxcomp.rewrite.Packed` of ``codes``, ``scale``, and where they are needed ``zero_point``, ``input_scale``
      and ``input_zero_point``. It computes what :func:`fake_quantize` does.

    Raises:
      ArgumentError: for a scheme out of range, static inputs without a range, a grid of another shape (the weight is
        named); RuleError: for a rule that applies to no weight.

    Example:
      >>> from jaxcomp.rewrite import calibrate
      >>> params = {"w": jnp.array([[1.27, 0.5], [-1.0, 0.02]]), "bias": jnp.ones(2)}
      >>> layer = lambda p, x: x @ p["w"] + p["bias"]
      >>> x = jnp.array([[2.55, 0.5]])
      >>> new, packed = quantize(layer, params, x, ranges=calibrate(layer, params, [x]))
      >>> packed["w"].parts["codes"].tolist()
      [[127, 127], [-100, 5]]
      >>> print(new.report)
      weight  shape  bits  inputs    in floating point because  bytes  before
      ------  -----  ----  --------  -------------------------  -----  ------
      w       2x2       8  static 8                                20      16
      ------  -----  ----  --------  -------------------------  -----  ------
      total                                                        20      16
      >>> new(packed, x).round(3).tolist(), layer(params, x).round(3).tolist()
      ([[3.738, 2.285]], [[3.738, 2.285]])

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    named = named_leaves(params)
    program, targets = _targets(apply_fn, params, example, scheme)
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in named.values())
    known = _checked_ranges({**_unknown(targets, named), **(ranges or {})} if abstract else dict(ranges or {}), targets)

    def encoded(leaves: Mapping[str, Any], grids: Mapping[str, Grid], ranges: Mapping[str, Grid]) -> dict[str, Codes]:
        return {
            path: encode(target, leaves[path], grids, ranges).in_bytes(int(target.scheme.bits))
            for path, target in targets.weights.items()
        }

    # Grids are arguments: by a constant a compiler does not divide as training did, but multiplies by its inverse.
    wanted = {path: named[path] for path in targets.weights}, dict(grids or {}), known
    packed = jax.eval_shape(encoded, *wanted) if abstract else jax.jit(encoded)(*wanted)
    report = _report(program, example, packed, targets, named)
    return Quantized(apply_fn, params, packed, report), replace_leaves(params, packed)


class Quantized(PackedFunction):
    """A function that computes with integers. Made by :func:`quantize`; traces once for each shape of its inputs.

    Attributes:
      report: what became of each weight.
    """

    made = ("quantised", "quantize")

    def __init__(self, apply_fn: Callable[..., Any], params: Params, packed: Mapping[str, Codes], report: QuantReport):
        """Takes the quantised weights, arrays or shapes, by path."""
        super().__init__(apply_fn, params, packed)
        self.report = report

    def interpreter(self) -> QuantizedRun:
        """What runs the function."""
        return QuantizedRun()

    def opened(self, leaf: Any) -> Any:
        """A leaf as the interpreter takes it: codes one to a number."""
        return leaf.unpacked() if isinstance(leaf, Codes) else leaf


def fake_quantize(
    apply_fn: Callable[..., Any],
    params: Params,
    *example: Any,
    scheme: Any = INT8,
    ranges: Mapping[str, Grid] | None = None,
    grids: Mapping[str, Grid] | None = None,
) -> "FakeQuantized":
    """The function that :func:`quantize` would give, of the parameters as they are, to train.

    At every site weights and inputs are rounded to their codes, which floating-point numbers hold; sums of these are
    exact up to 2**24, so the integer function computes the very same. Gradients pass rounding straight through, and
    stop where codes are clipped.

    Args:
      apply_fn, params, *example, scheme, grids: as of :func:`quantize`. Weights without a grid here are fitted to their
        range at every call.
      ranges: likewise; the new function's own ``ranges`` go before them.

    Returns:
      ``(params, *inputs, ranges=None) -> what apply_fn returns``.

    Raises:
      As :func:`quantize`.

    Example:
      >>> from jaxcomp.rewrite import Scheme
      >>> layer = lambda p, x: x @ p["w"]
      >>> params, x = {"w": jnp.array([[0.26], [-0.7]])}, jnp.array([[1.0, 1.0]])
      >>> fake = fake_quantize(layer, params, x, scheme=Scheme(bits=2, inputs=None))
      >>> round(fake(params, x).item(), 3), jax.grad(lambda p: fake(p, x).sum())(params)["w"].tolist()
      (-0.7, [[1.0], [1.0]])

    Reference: Jacob et al., Quantization and training of neural networks for integer-arithmetic-only inference, 2018.
    """
    _, targets = _targets(apply_fn, params, example, scheme)
    return FakeQuantized(apply_fn, params, targets, _checked_ranges(dict(ranges or {}), targets), dict(grids or {}))


class FakeQuantized:
    """A function that rounds as integers would. Made by :func:`fake_quantize`; traces once a shape of its inputs."""

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: Params,
        targets: Targets,
        ranges: dict[str, Grid],
        grids: dict[str, Grid],
    ):
        """Takes what is quantised, and on which grids."""
        self._targets, self._ranges, self._grids = targets, ranges, grids
        self._programs = programs(apply_fn, params)

    def __call__(self, params: Params, *inputs: Any, ranges: Mapping[str, Grid] | None = None) -> Any:
        known, program = {**self._ranges, **(ranges or {})}, self._programs(inputs)
        weights = self._targets.weights
        leaves = [
            encode(weights[path], leaf, self._grids, known, train=True) if path in weights else leaf
            for path, leaf in zip(program.paths, jax.tree.leaves(params), strict=True)
        ]
        return run_packed(program, QuantizedRun(), leaves, inputs)


def _targets(
    apply_fn: Callable[..., Any], params: Params, example: tuple[Any, ...], scheme: Any
) -> tuple[Program, Targets]:
    program = trace(apply_fn, params, *example)
    check_reads(program)
    return program, find_targets(program, scheme)


def _checked_ranges(ranges: dict[str, Grid], targets: Targets) -> dict[str, Grid]:
    for path in ranges.keys() & targets.weights.keys():
        scale = ranges[path].scale
        known = not isinstance(scale, jax.ShapeDtypeStruct | jax.core.Tracer)
        if known and not (np.isfinite(scale).all() and (np.asarray(scale) > 0).all()):
            raise ArgumentError(
                f"the grid of what {path!r} is multiplied by has scale {np.asarray(scale)}: it must be positive and "
                "finite; calibrate on data that reach it"
            )
    return ranges


def _unknown(targets: Targets, named: Mapping[str, Any]) -> dict[str, Grid]:
    """Grids of no meaning, for a function whose parameters have none yet."""
    shapes = {path: tuple(named[path].shape[i] for i in own.stack) for path, own in targets.weights.items()}
    return {path: Grid(jnp.ones(shape), jnp.zeros(shape, jnp.int32)) for path, shape in shapes.items()}


def _report(
    program: Program, inputs: tuple[Any, ...], packed: Mapping[str, Codes], targets: Targets, named: Mapping[str, Any]
) -> QuantReport:
    """What a run on the example's shapes did."""
    run = QuantizedRun()

    def go(packed: Mapping[str, Codes], named: Mapping[str, Any], inputs: Any) -> Any:
        leaves = [packed[path].unpacked() if path in packed else named[path] for path in program.paths]
        return run_packed(program, run, leaves, inputs)

    jax.eval_shape(go, packed, dict(named), inputs)
    others = _left(program, named)
    rows = []
    for path in program.paths:
        if path in packed:
            own, dense_at = targets.weights[path].scheme, run.dense_at.get(path, "")
            whole = f"{own.inputs} {own.input_bits}" if path in run.in_integers else ""
            read_by = f"{run.read_by[path]} reads its value" if path in run.read_by else ""
            left = "; ".join(filter(None, (dense_at, read_by)))
            size = sum(_bytes(part) for part in packed[path].parts.values())
            rows.append(QuantRow(path, named[path].shape, own.bits, whole, left, size, _bytes(named[path])))
        elif path in targets.left or path in others:
            size = _bytes(named[path])
            why = targets.left.get(path) or others[path]
            rows.append(QuantRow(path, named[path].shape, None, "", why, size, size))
    return QuantReport(tuple(rows))


def _left(program: Program, named: Mapping[str, Any]) -> dict[str, str]:
    """Why weights that sites read in some other way cannot be quantised."""
    read = {path for site in sites_of(program).rows for path in site.paths}
    uses = uses_of(program)
    return {
        path: "; ".join(uses[path].other)
        for path in program.paths
        if path in read and path in uses and not uses[path].sites
    }


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
