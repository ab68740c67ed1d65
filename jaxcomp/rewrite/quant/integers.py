"""Integers at sites: matmuls and convolutions of codes, and the interpreter that runs a function with them.

The same arithmetic serves twice. Where a weight's codes are int8, products are summed up in int32; where they are
floats that hold the same whole numbers, as in training, in floating point, which is as exact up to 2**24. Both scale
the same sums in the same way: what was trained is what runs.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.core.meshes import automatic
from jaxcomp.core.reproducible import rounded
from jaxcomp.core.straight_through import with_slope
from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fit_grid
from jaxcomp.quant.formats import Format, check_integer_form, decode, encode
from jaxcomp.quant.gradients import Estimator, Slope, rounded_levels
from jaxcomp.rewrite.quant.convolutions import Window, fastest
from jaxcomp.trace import compat
from jaxcomp.trace.contraction import Contraction
from jaxcomp.trace.ir import Node, Program, Value
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.packed.marked import FAKE_QUANT, is_marking, marked
from jaxcomp.trace.packed.run import PackedInterpreter
from jaxcomp.trace.uses import uses_of


class QuantizedRun(PackedInterpreter):
    """Runs a program whose weights are :class:`Codes`.

    Attributes:
      in_integers: the paths of weights that sites compute with in integers.
      dense_at: by path, why sites compute with the value of a weight although their inputs are to be quantized.
      read_by: by path, what else reads a weight's value.
    """

    def __init__(self, sites: Collection[Node], slope: Slope | None = None, join: Any = jnp.add) -> None:
        """Takes the nodes that multiply a weight by what is computed of the inputs: :func:`sites_in`.

        Args:
          sites: matmuls and convolutions.
          slope: of the sign of inputs of 1 bit, in units of their scale; None: 1 within it.
          join: as of the interpreter.
        """
        super().__init__(join)
        self._sites, self._slope = sites, slope
        self.in_integers: set[str] = set()
        self.dense_at: dict[str, str] = {}
        self.read_by: dict[str, str] = {}
        self._pooled: dict[Value, _Pool] = {}

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        if node.op == "reduce_window_max":
            self._pooled[node.outs[0]] = _Pool(node, operands[0])
        return super().node(node, operands)

    def site(self, node: Node, operands: list[Any], side: int) -> Any:
        weight, x = operands[side], operands[1 - side]
        if not isinstance(weight, Codes):
            return super().site(node, operands, side)
        if weight.inputs is None or node not in self._sites:
            return None
        why = why_not(node, weight, x, side)
        if why:
            self.dense_at.setdefault(weight.path, why)
            return None
        self.in_integers.add(weight.path)
        if is_marking() and _in_int8(weight):
            return _as_marked(node, x, weight, side)
        return multiplied(node, x, weight, side, self._slope, self._pooled.get(node.ins[1 - side]))

    def dense(self, x: Any, node: Node | None) -> Any:
        if isinstance(x, Codes) and node not in self._sites:
            self.read_by.setdefault(x.path, "what carries or returns it" if node is None else node.op)
        return super().dense(x, node)


def sites_in(program: Program) -> frozenset[Node]:
    """Finds the sites of a program, without products of weights with each other, whose ranges no data show."""
    return frozenset(use.node for own in uses_of(program).values() for use in own.sites)


def why_not(node: Node, weight: Codes, x: Any, side: int) -> str:
    """Says why a site cannot compute with codes; empty if it can.

    Args:
      node: the site.
      weight: its quantized operand.
      x: the other operand.
      side: which operand the weight is, 0 or 1.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return f"its other operand is {x.dtype}"
    if node.params.get("batch_group_count", 1) > 1:
        return "its batch is in groups"
    summed = Contraction(node).operands[side].summed
    if any(part is not None and any(part.shape[i] > 1 for i in summed) for part in map(weight.part, _GRID)):
        return "its scales vary along what is summed over"
    assert weight.inputs is not None
    format, even = weight.inputs.format, not weight.inputs.format.affine and weight.part("zero_point") is None
    reach = 1 << format.bits if format.kind == "integer" else 256
    most = _count(node, weight.shape, side) * reach * 256 // (4 if even else 1)
    return f"a sum of {_count(node, weight.shape, side):,} products may overflow int32" if most >= 2**31 else ""


_GRID = ("scale", "zero_point")


class _Pool(NamedTuple):
    """A maximum over windows.

    Attributes:
      node: the pool.
      x: of what.
    """

    node: Node
    x: Any

    def of(self, codes: Any, bottom: int) -> Any:
        """The maxima of int8 codes; of windows that hold nothing but padding the least code, as of minus infinity."""

        def pooled(codes: Any) -> Any:
            return jnp.maximum(compat.bind(self.node.equation, [codes])[0], jnp.int8(bottom))

        def on_cpu(codes: Any) -> Any:
            return pooled(lax.optimization_barrier(codes))  # not in one loop with what computes them: 8 ms, not 44

        return lax.platform_dependent(codes, cpu=on_cpu, default=pooled)


def multiplied(
    node: Node, x: Any, weight: Codes, side: int, slope: Slope | None = None, pool: _Pool | None = None
) -> Any:
    """Computes a site's result: ``sum((x code - x zero_point) (w code - w zero_point)) * x scale * w scale``.

    Args:
      node: the site.
      x: its input.
      weight: its quantized operand.
      side: which operand the weight is, 0 or 1.
      slope: as of :class:`QuantizedRun`.
      pool: the max pool that made the input. Static ranges round number by number and monotonically, so the code of a
        maximum is the maximum of codes, which are a quarter as wide.
    """
    spec = weight.inputs
    if pool is not None and spec is not None and spec.mode == "static" and _in_int8(weight):
        inputs = _quantized(node, pool.x, weight, side, slope)
        inputs = inputs._replace(codes=pool.of(inputs.codes.astype(jnp.int8), spec.format.bottom))
    else:
        inputs = _quantized(node, x, weight, side, slope)
    factor = _spread(node, 1 - side, inputs.grid.scale) * _spread(node, side, weight.part("scale"))
    return (total(node, inputs, weight, side) * factor).astype(node.outs[0].dtype)


def _as_marked(node: Node, x: Any, weight: Codes, side: int) -> Any:
    """A site's result as the product of its input on its grid and of the weight's value: what an exporter reads."""
    spec, real = weight.inputs, weight.parts["scale"].dtype
    assert spec is not None

    def on_grid(x: Any, *_: Any) -> Any:
        inputs = _quantized(node, x, weight, side, None)
        return ((inputs.codes - inputs.grid.zero_point.astype(real)) * inputs.grid.scale).astype(x.dtype)

    if spec.mode == "static" and spec.format.kind == "integer":
        x = marked(
            FAKE_QUANT,
            _static_values(weight),
            x,
            *weight.input_grid[:2],
            bottom=spec.format.bottom,
            top=spec.format.top,
        )
    else:
        x = on_grid(x)
    return compat.bind(node.equation, [x, weight.dense()] if side else [weight.dense(), x])[0]


def _static_values(weight: Codes) -> Callable[..., Any]:
    """Returns ``(x, scale, zero_point) -> x`` on a static grid of the weight's inputs."""
    assert weight.inputs is not None
    format = weight.inputs.format

    def on_grid(x: Any, scale: Any, zero_point: Any) -> Any:
        codes = _input_codes(x, Grid(scale, zero_point), format)
        return ((codes - zero_point.astype(codes.dtype)) * scale).astype(x.dtype)

    return on_grid


def total(node: Node, inputs: "_Quantized", weight: Codes, side: int) -> Any:
    """Sums a site's products of codes: whole numbers in the scale's floating-point dtype.

    Args:
      node: the site.
      inputs: its quantized input.
      weight: its quantized operand.
      side: which operand the weight is, 0 or 1.
    """
    real = weight.parts["scale"].dtype
    if _in_int8(weight):
        return _integer_total(node, inputs, weight, side).astype(real)
    centered = _computed_once(inputs.codes - inputs.grid.zero_point.astype(real))
    sums = _bound(node, [centered, weight.centered], side, real)
    # A platform that convolves by way of transforms (Winograd) misses the whole numbers by a little.
    return with_slope(lax.stop_gradient(jnp.round(sums)), sums, 1.0)


def _computed_once(codes: Any) -> Any:
    """Codes, as what two arrays make: numbers, and whether they are numbers. XLA:CPU holds that for all who read it.

    What one array makes it computes anew for each reader: batch norm and rounding in every transposition on the way to
    the weights' gradient, slowly. With scales that learn, a step of ResNet-20 took 1.13 times a plain one, now 1.01.
    """
    return with_slope(lax.stop_gradient(rounded(codes)), codes, 1.0)


def _in_int8(weight: Codes) -> bool:
    return weight.parts["codes"].dtype == jnp.int8


class _Quantized(NamedTuple):
    """A site's input.

    Attributes:
      codes: whole numbers in floating point, gradients straight through.
      grid: of the input's rank, 1 along every axis that shares a scale.
      symmetric: whether all zero points are 0.
    """

    codes: Any
    grid: Grid
    symmetric: bool


def _quantized(node: Node, x: Any, weight: Codes, side: int, slope: Slope | None) -> _Quantized:
    spec, real = weight.inputs, weight.parts["scale"].dtype
    assert spec is not None
    format = spec.format
    if spec.mode == "static":
        own, one = weight.input_grid, (1,) * x.ndim
        grid = Grid(own.scale.reshape(one), own.zero_point.reshape(one))
    else:
        grid = fit_grid(lax.stop_gradient(x.astype(real)), format, Contraction(node).operands[1 - side].rows)
    unit = check_integer_form(format)
    if spec.estimator is not None:
        levels, grid = _learning(x, grid, format, spec.estimator, slope)
        codes = levels * (1 / unit)
    else:
        codes = _input_codes(x, grid, format, slope)
    return _Quantized(codes, Grid(grid.scale * unit, grid.zero_point), not format.affine)


def _learning(x: Any, grid: Grid, format: Format, estimator: Estimator, slope: Slope | None) -> tuple[Any, Grid]:
    """Levels with gradients to the grid, those to it divided by the root of an example's numbers, as in LSQ."""
    members = max(x.size // max(x.shape[0], 1), 1)
    unsigned = format.affine and not jnp.issubdtype(grid.zero_point.dtype, jnp.floating)
    factor = 1 / math.sqrt(members * (format.levels[-1] - unsigned * format.levels[0]))
    return rounded_levels(x, grid, format, estimator=estimator, gradient_scale=factor, slope=slope, by_inverse=True)


def _input_codes(x: Any, grid: Grid, format: Format, slope: Slope | None = None) -> Any:
    """Rounds inputs to codes in the scale's floating-point dtype, halves to even, with straight-through gradients.

    Args:
      x: ``[...]``.
      grid: its numbers broadcast against ``x``.
      format: of the codes.
      slope: as of :class:`QuantizedRun`.
    """
    unit = check_integer_form(format)
    # Of a scale that a compiler knows it makes this product of a quotient, and of others not: codes would differ.
    quotient = x.astype(grid.scale.dtype) * lax.stop_gradient(1 / grid.scale)
    unclipped = encode(quotient, format) + grid.zero_point.astype(quotient.dtype)
    codes = jnp.clip(unclipped, format.bottom, format.top)
    if format.kind == "sign" and slope is not None:
        return with_slope(lax.stop_gradient(codes), quotient, lax.stop_gradient(slope(quotient)))
    inside = jnp.abs(quotient) <= 1 if format.kind == "sign" else unclipped == codes
    whole = codes if format.kind == "integer" else decode(codes, format, codes.dtype) * (1 / unit)
    slopes = jnp.where(inside, 1 / grid.scale * (1 / unit), 0)
    return with_slope(lax.stop_gradient(whole), x.astype(quotient.dtype), lax.stop_gradient(slopes))


def _integer_total(node: Node, inputs: _Quantized, weight: Codes, side: int) -> Any:
    """The sums in int32, zero points and all."""
    codes = [inputs.codes.astype(jnp.int8), weight.part("codes")]
    own, zero_point = inputs.grid.zero_point, weight.part("zero_point")
    zero = None if inputs.symmetric else own.astype(jnp.int8)
    sums = _bound(node, codes, side, jnp.int32, zero)
    if zero is not None:
        sums -= _spread(node, 1 - side, own) * _spread(node, side, _sums_of(node, weight, side))
    if zero_point is not None:
        zero_point = _spread(node, side, zero_point)
        sums -= zero_point * _sums_of_inputs(node, codes, side, zero)
        if zero is not None:
            sums += _count(node, weight.shape, side) * _spread(node, 1 - side, own) * zero_point
    return sums


def _sums_of(node: Node, weight: Codes, side: int) -> Any:
    """Sums of the weight alone over each result's terms, of the weight's rank."""
    summed, known = Contraction(node).operands[side].summed, weight.part("sums")
    if known is not None and known.shape == tuple(1 if i in summed else n for i, n in enumerate(weight.shape)):
        return known
    return jnp.sum(weight.part("codes"), axis=summed, keepdims=True, dtype=jnp.int32)


def _sums_of_inputs(node: Node, codes: list[Any], side: int, zero: Any) -> Any:
    """Sums of the input alone: the site with weights of 1, once for all features of a group."""
    axes = Contraction(node)
    groups, free = axes.groups, axes.operands[side].free
    shape = [1 if i in free else n for i, n in enumerate(codes[1].shape)]
    if node.op == "dot_general":
        return _bound(node, [codes[0], jnp.ones(shape, jnp.int8)], side, jnp.int32)
    (out,), (place,) = free, axes.free[side]
    shape[out] = groups
    sums = _bound(node, [codes[0], jnp.ones(shape, jnp.int8)], side, jnp.int32, zero)
    return sums if groups == 1 else jnp.repeat(sums, codes[1].shape[out] // groups, axis=place)


def _bound(node: Node, operands: list[Any], side: int, dtype: Any, zero: Any = None) -> Any:
    """The site's primitive applied to its input and its weight, summing up in ``dtype``.

    Args:
      node: the site.
      operands: input and weight.
      side: which operand of the primitive the weight is.
      dtype: of the sums.
      zero: the code that stands for 0 in what a convolution takes around its input; None: 0.
    """
    changes: dict[str, Any] = {"preferred_element_type": np.dtype(dtype), "precision": None}
    is_convolution = node.op == "conv_general_dilated"
    if is_convolution and zero is not None:
        ones = (1,) * len(node.params["padding"])
        changes |= {"padding": ((0, 0),) * len(ones), "lhs_dilation": ones}

    def as_it_is(x: Any, weight: Any, zero: Any) -> Any:
        x = _padded(node, x, zero) if is_convolution and zero is not None else x
        return compat.bind(node.equation, [x, weight] if side == 1 else [weight, x], **changes)[0]

    if dtype != jnp.int32 or not is_convolution:
        return as_it_is(operands[0], operands[1], zero)
    form = _form(node, operands)

    def on_cpu(x: Any, weight: Any, zero: Any) -> Any:
        x = lax.optimization_barrier(x)  # codes that a loop computes while it pads are not vectorized
        return as_it_is(x, weight, zero) if form is None else form(_padded(node, x, zero), weight)

    def convolved(*args: Any) -> Any:
        return lax.platform_dependent(*args, cpu=on_cpu, default=as_it_is)

    return automatic(convolved, *operands, zero, out=compat.layout(node.equation))


def _form(node: Node, operands: list[Any]) -> Callable[..., Any] | None:
    """The convolution of an input that is padded and a kernel as a CPU does it fastest; None: as it is."""
    axes = Contraction(node)
    own, kernel = axes.operands
    window = Window(tuple(node.params["window_strides"]), tuple(node.params["rhs_dilation"]), axes.groups)
    x_order = (*own.free, *own.window, *own.contracted)
    w_order = (*kernel.window, *kernel.contracted, *kernel.free)
    shape = tuple(operands[1].shape[i] for i in w_order)
    form = fastest(math.prod(operands[0].shape[i] for i in own.contracted), shape, window)
    if form is None or not all((*shape, *operands[0].shape)):
        return None
    order = (*axes.free[0], *axes.window, *axes.free[1])
    back = [order.index(i) for i in range(len(order))]
    return lambda x, w: form(x.transpose(x_order), w.transpose(w_order), window).transpose(back)


def _padded(node: Node, x: Any, zero: Any) -> Any:
    """A convolution's input with all that it takes in between and around: zeros, or the code that stands for 0."""
    config = [(0, 0, 0)] * x.ndim
    places = Contraction(node).operands[0].window
    for place, (low, high), by in zip(places, node.params["padding"], node.params["lhs_dilation"], strict=True):
        config[place] = (low, high, by - 1)
    if zero is None or zero.size == 1:
        return lax.pad(x, jnp.zeros((), x.dtype) if zero is None else zero.reshape(()), config)
    own = lax.pad(jnp.ones(x.shape, bool), jnp.zeros((), bool), config)
    return jnp.where(own, lax.pad(x, jnp.zeros((), x.dtype), config), zero)


def _count(node: Node, shape: tuple[int, ...], side: int) -> int:
    return math.prod(shape[i] for i in Contraction(node).operands[side].summed)


def _spread(node: Node, side: int, array: Any) -> Any:
    """Numbers along the axes that an operand passes on, with those at their places in the result."""
    axes = Contraction(node)
    own, shape = axes.operands[side], [1] * len(node.outs[0].shape)
    for i, place in zip(own.passed, axes.places[side], strict=True):
        shape[place] = array.shape[i]
    return jnp.transpose(array, (*own.passed, *own.summed)).reshape(shape)
