"""Dead values: what every operation leaves at an index that was cut, in the network whose parameters are masked.

A number where it is known, nan where it is not. Numbers are computed by NumPy in float64: 0 * unknown is 0, relu(0)
is 0, softplus(0) is 0.69.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.trace import compat

Dead = Any
"""A float, or float64 ``[size of the axis]``; nan is unknown."""

UNKNOWN = math.nan
LARGEST = float(np.finfo(np.float32).max)


def join(*deads: Dead) -> Dead:
    """Joins what is known of several values, any of which may be found: the value they agree on.

    Example:
      >>> join(0.0, 0.0), join(0.0, 1.0) is UNKNOWN
      (0.0, True)
    """
    first = deads[0]
    for other in deads[1:]:
        if first is not other:
            first = tidy(np.where(np.equal(first, other), first, UNKNOWN))
    return first


def zero_if(*deads: Dead) -> Dead:
    """Returns the sum of products of which these are factors: 0 if one of them is, else unknown."""
    if all(isinstance(dead, float) for dead in deads):
        return 0.0 if 0.0 in deads else UNKNOWN
    zero = np.any(np.broadcast_arrays(*(np.equal(dead, 0) for dead in deads)), axis=0)
    return tidy(np.where(zero, 0.0, UNKNOWN))


def times(count: Any, dead: Dead) -> Dead:
    """Returns the sum of ``count`` equal values ``dead``; of a symbolic count only zeros have a known one."""
    if compat.is_symbolic(count):
        return zero_if(dead)
    return tidy(np.multiply(dead, float(count)))


def same(a: Dead, b: Dead) -> bool:
    """Returns whether ``a`` and ``b`` are equal everywhere, unknown counting as equal to unknown."""
    return bool(np.all(np.equal(a, b) | (np.isnan(a) & np.isnan(b))))


def constant(value: Any) -> float:
    """Returns the number that fills an array, unknown if it holds several or is no number."""
    if isinstance(value, bool | int | float):
        return float(value)
    dtype = getattr(value, "dtype", None)
    if dtype is None or value.size == 0 or compat.is_tracer(value) or not compat.is_number(dtype):
        return UNKNOWN
    array = np.asarray(value)
    if not (array == array.flat[0]).all() or jax.dtypes.issubdtype(dtype, np.complexfloating):
        return UNKNOWN
    return float(array.flat[0])


def elementwise(op: str, params: Mapping[str, Any], deads: Sequence[Dead]) -> Dead:
    """Evaluates an elementwise primitive on cut values.

    Args:
      op: the primitive's name.
      params: its parameters.
      deads: its operands.
    """
    setting = params.get("new_dtype") if op == "convert_element_type" else params.get("y")
    if all(isinstance(dead, float) for dead in deads):
        return _remembered(op, setting, *deads)
    return tidy(_compute(op, setting, *deads))


@functools.lru_cache(maxsize=4096)
def _remembered(op: str, setting: Any, *deads: float) -> Dead:
    return tidy(_compute(op, setting, *deads))


def tidy(dead: Dead) -> Dead:
    """Normalizes a cut value for caches: one number for all as a float, unknown as one object."""
    if np.ndim(dead):
        if dead.size == 0 or not same(dead, dead[0]):
            return dead
        dead = dead[0]
    return UNKNOWN if np.isnan(dead) else float(dead)


def _compute(op: str, setting: Any, *deads: Dead) -> Dead:
    if op in KEEPS:
        return _cast(deads[0], setting)
    if op == "select_n":
        return _select(*deads)
    if op in STEPS and not all(map(_is_exact, deads)):
        return np.full(np.broadcast_shapes(*map(np.shape, deads)), UNKNOWN)
    function = _power(setting) if op == "integer_pow" else FUNCTIONS.get(op)
    if function is None:
        return np.full(np.broadcast_shapes(*map(np.shape, deads)), UNKNOWN)
    with np.errstate(all="ignore"):
        result = function(*deads)
    unknown = np.any(np.broadcast_arrays(*map(np.isnan, deads)), axis=0)
    result = np.where(unknown, UNKNOWN, result)
    if op == "mul" or op == "div":
        zero = np.equal(deads[0], 0) | (np.equal(deads[1], 0) & (op == "mul"))
        result = np.where(unknown & zero, 0.0, result)
    return result


def _is_exact(dead: Dead) -> bool:
    # What float64 rounds otherwise than the device may be on the other side of a step.
    return bool(np.all(np.isnan(dead) | (np.asarray(dead, np.float32).astype(np.float64) == dead)))


def _power(exponent: int) -> Callable[[Dead], Dead]:
    return lambda dead: np.power(dead, float(exponent))


def undefined(op: str, deads: Sequence[Dead], result: Dead) -> Any:
    """Finds where known operands gave no number (0/0 in a norm without epsilon), or none that float32 holds.

    Args:
      op: the primitive's name.
      deads: its operands.
      result: its result.
    """
    if op in UNNAMED | STEPS or (isinstance(result, float) and abs(result) < LARGEST):
        return False
    if all(isinstance(dead, float) for dead in deads):
        return all(map(math.isfinite, deads))
    known = np.all(np.broadcast_arrays(*map(np.isfinite, deads)), axis=0)
    return known & ~(np.abs(result) < LARGEST)


def _cast(dead: Dead, dtype: Any) -> Dead:
    if dtype is None or jax.dtypes.issubdtype(dtype, np.inexact):
        return dead
    whole = np.not_equal(dead, 0).astype(np.float64) if dtype == np.bool_ else np.trunc(dead)
    return np.where(np.isnan(dead), UNKNOWN, whole)


def _select(which: Dead, *cases: Dead) -> Dead:
    chosen = join(*cases)
    for i, case in enumerate(cases):
        chosen = np.where(np.equal(which, i), case, chosen)
    return chosen


def _each(function: Callable[[float], float]) -> Callable[[Dead], Dead]:
    vector = np.vectorize(lambda x: UNKNOWN if math.isnan(x) else function(x), otypes=[np.float64])
    return lambda dead: vector(dead)


def _truth(function: Callable[..., Any]) -> Callable[..., Dead]:
    return lambda *deads: np.asarray(function(*deads), np.float64)


KEEPS = frozenset({
    "convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision", "name", "optimization_barrier",
    "sharding_constraint", "layout_constraint", "real", "pvary", "pcast", "reshard", "mesh_cast",
})  # fmt: skip
"""Primitives that leave values as they are ."""

FUNCTIONS: dict[str, Callable[..., Dead]] = {
    "abs": np.abs, "neg": np.negative, "sign": np.sign, "floor": np.floor, "ceil": np.ceil,
    "round": lambda x: np.where(np.floor(x) + 0.5 == x, UNKNOWN, np.round(x)),
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "square": np.square, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "logistic": lambda x: 1 / (1 + np.exp(-np.asarray(x))), "erf": _each(math.erf), "erfc": _each(math.erfc),
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rem": np.fmod,
    "max": np.maximum, "min": np.minimum, "pow": np.power, "atan2": np.arctan2,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "eq": _truth(np.equal), "ne": _truth(np.not_equal), "lt": _truth(np.less), "le": _truth(np.less_equal),
    "gt": _truth(np.greater), "ge": _truth(np.greater_equal), "is_finite": _truth(np.isfinite),
}  # fmt: skip
"""Elementwise primitives whose value at a number NumPy knows."""

STEPS = frozenset({"sign", "floor", "ceil", "round", "eq", "ne", "lt", "le", "gt", "ge", "is_finite"})
"""The primitives of these whose result is not continuous."""

UNNAMED = frozenset({
    "and", "or", "not", "xor", "erf_inv", "lgamma", "digamma", "polygamma", "igamma", "igammac", "igamma_grad_a",
    "bessel_i0e", "bessel_i1e", "regularized_incomplete_beta", "population_count", "clz", "shift_left",
    "shift_right_logical", "shift_right_arithmetic", "imag", "conj", "complex", "nextafter", "zeta",
})  # fmt: skip
"""Elementwise primitives that couple their operands as the others do, with a value that is not computed here."""

ELEMENTWISE = KEEPS | UNNAMED | FUNCTIONS.keys() | {"select_n", "integer_pow"}
