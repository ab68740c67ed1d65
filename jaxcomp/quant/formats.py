"""Formats: which numbers a code can stand for. A format is a value; scales and gradients are others' business."""

import functools
from numbers import Integral
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.types import Grid


class Format(NamedTuple):
    """The numbers (levels) that codes stand for, before they are scaled. Code 0 is the level 0 in every format.

    Rounding is to the nearest level; halfway between two, to the level whose code is even. Of an 8-bit or 4-bit float
    the code is its bit pattern without the sign, negated for negative numbers: even codes are even mantissas.

    Attributes:
      name: by which :func:`named` finds it.
      bits: of a stored code.
      levels: ascending; ``levels[code - bottom]``.
      bottom: the least code.
      kind: how levels follow from codes: ``"integer"``: they are the codes; ``"sign"``: -1 or 1, and 0 for 0 alone;
        ``"float"``: sign, exponent, mantissa; ``"table"``: by no rule.
      affine: whether a grid may shift the codes by a zero point.
      mantissa: bits of a float's mantissa.
    """

    name: str
    bits: int
    levels: tuple[float, ...]
    bottom: int
    kind: Literal["integer", "sign", "float", "table"] = "table"
    affine: bool = False
    mantissa: int = 0

    @property
    def top(self) -> int:
        """The greatest code."""
        return self.bottom + len(self.levels) - 1

    @property
    def unit(self) -> float | None:
        """The power of two of which all levels are whole multiples of 8 bits; None: it has no integer form.

        Example:
          >>> integer(4).unit, fp4().unit, fp8().unit
          (1.0, 0.5, None)
        """
        unit = min(level for level in self.levels if level > 0)
        whole = np.asarray(self.levels) / unit
        fits = (whole == np.rint(whole)).all() and whole[0] >= -128 and whole[-1] <= 127
        return unit if fits and unit in (0.5, 1.0) else None


def integer(bits: int, symmetric: bool = True) -> Format:
    """Returns the format of int1 ... int8: integers in two's complement.

    One bit is -1 and 1. Two bits, symmetric, are ternary: -1, 0, 1.

    Args:
      bits: 1 to 8.
      symmetric: without the least code, so that they lie evenly about 0; else with it, and with a zero point.

    Raises:
      ArgumentError: for other bits.

    Example:
      >>> integer(3).levels, integer(3, symmetric=False).levels[0]
      ((-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0), -4.0)
    """
    if not isinstance(bits, Integral) or isinstance(bits, bool) or not 1 <= bits <= 8:
        raise ArgumentError(f"bits must be an integer from 1 to 8, got {bits!r}")
    bits = int(bits)  # a NumPy integer would not go into JSON
    if bits == 1:
        if not symmetric:
            raise ArgumentError("integers of 1 bit are -1 and 1 and have no zero point: use symmetric=True, or 2 bits")
        return one_bit()
    top = 2 ** (bits - 1) - 1
    bottom = -top if symmetric else -top - 1
    name = f"int{bits}" if symmetric else f"int{bits}_affine"
    return Format(name, bits, tuple(map(float, range(bottom, top + 1))), bottom, "integer", affine=not symmetric)


def one_bit() -> Format:
    """Returns the format of -1 and 1. A weight of exactly 0 is a pruned one and stays 0: stored as a mask beside bits.

    Example:
      >>> encode(jnp.array([-0.1, 0.0, 7.0]), one_bit()).tolist()
      [-1.0, 0.0, 1.0]
    """
    return Format("binary", 1, (-1.0, 0.0, 1.0), -1, "sign")


def power_of_two(bits: int) -> Format:
    """Returns the format of 0 and powers of two of both signs, 1 to ``2**(2**(bits - 1) - 2)``: products are shifts.

    Args:
      bits: 2 to 5. Up to 4 they have an integer form.

    Example:
      >>> power_of_two(3).levels
      (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)

    Reference: Zhou et al., Incremental network quantization, 2017.
    """
    _check_bits("power_of_two", bits, 2, 5)
    return _mirrored(f"pot{bits}", bits, [2.0**k for k in range(2 ** (bits - 1) - 1)])


def apot(bits: int) -> Format:
    """Returns the format of additive powers of two: sums of powers of two, one from each of some sets.

    Denser where weights are many than :func:`integer`, without the emptiness of :func:`power_of_two` at the ends.

    Args:
      bits: 3 to 6. All have an integer form.

    Example:
      >>> apot(4).levels[7:]
      (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)

    Reference: Li et al., Additive powers-of-two quantization, 2020.
    """
    _check_bits("apot", bits, 3, 6)
    terms, odd = divmod(bits - 1, 2)
    exponents = [[j + 1, terms + j + 1, 2 * terms + j + 1 + odd] for j in range(terms)] + odd * [[2 * terms + 1]]
    least = max(max(term) for term in exponents)
    sums = {0.0}
    for term in exponents:
        sums = {a + b for a in sums for b in (0.0, *(2.0 ** (least - e) for e in term))}
    return _mirrored(f"apot{bits}", bits, sorted(sums - {0.0}))


def fp8(exponent: int = 4) -> Format:
    """Returns a format of 8-bit floats: e4m3 (``float8_e4m3fn``, up to 448) or e5m2 (up to 57344); it saturates.

    Args:
      exponent: bits of the exponent, 4 or 5.

    Raises:
      ArgumentError: for another number of bits.

    Example:
      >>> fp8().levels[-1], fp8(5).levels[-1]
      (448.0, 57344.0)

    Reference: Micikevicius et al., FP8 formats for deep learning, 2022.
    """
    if exponent not in (4, 5):
        raise ArgumentError(f"fp8 has 4 or 5 bits of exponent, got {exponent!r}")
    return _float("fp8_e4m3", 8, 3, -6, 126) if exponent == 4 else _float("fp8_e5m2", 8, 2, -14, 123)


def fp4() -> Format:
    """Returns the format of 4-bit floats, e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 of both signs.

    In blocks: ``fake(fp4(), block=32)``.

    Reference: Rouhani et al., Microscaling data formats for deep learning, 2023.
    """
    return _float("fp4_e2m1", 4, 1, 0, 7)


def nf4() -> Format:
    """Returns the format of normal floats: 16 levels in [-1, 1] at quantiles of a normal distribution.

    In blocks: ``fake(nf4(), block=64)``.

    Reference: Dettmers et al., QLoRA, 2023.
    """
    negative: tuple[float, ...] = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453)
    negative += (-0.28444138169288635, -0.18477343022823334, -0.09105003625154495)
    positive: tuple[float, ...] = (0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224)
    positive += (0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
    return Format("nf4", 4, (*negative, 0.0, *positive), -7)


@functools.cache
def every_format() -> dict[str, Format]:
    """Returns all formats, by name."""
    made = [one_bit(), fp8(4), fp8(5), fp4(), nf4()]
    made += [integer(bits, symmetric) for bits in range(2, 9) for symmetric in (True, False)]
    made += [*map(power_of_two, range(2, 6)), *map(apot, range(3, 7))]
    return {each.name: each for each in made}


def named(name: str) -> Format:
    """Returns the format of a name.

    Raises:
      ArgumentError: for a name that no format has.

    Example:
      >>> named("fp8_e4m3").bits
      8
    """
    known = sorted(every_format())
    if name not in known:
        near = [other for other in known if name and name.lower() in other]
        meant = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ArgumentError(f"no format is called {name!r}{meant}; there are {', '.join(known)}")
    return every_format()[name]


def as_format(bits: int | str | Format, symmetric: bool = True) -> Format:
    """Returns the format that is meant by bits, by a name, or by itself.

    Args:
      bits: 1 to 8 bits of integers, the name of a format, or one.
      symmetric: whether integers have no zero point; other formats never have one.

    Raises:
      ArgumentError: for bits out of range, a name that no format has, a zero point where there is none.

    Example:
      >>> as_format(4, symmetric=False).affine, as_format("nf4").bits
      (True, 4)
    """
    if not isinstance(bits, str | Format):
        return integer(bits, symmetric)
    found = named(bits) if isinstance(bits, str) else bits
    if not symmetric and not found.affine:
        raise ArgumentError(f"{found.name} has no zero point: leave symmetric=True, or give bits of integers")
    return found


def encode(x: Array, format: Format) -> Array:
    """Encodes numbers: the codes of the nearest levels, as floats; numbers beyond the ends have codes beyond the ends.

    Args:
      x: ``[...]`` float32 or float64, in units of the scale.
      format: any.

    Example:
      >>> encode(jnp.array([0.25, 0.75, 5.0, 9.0]), fp4()).tolist()
      [0.0, 2.0, 6.0, 8.0]
    """
    match format.kind:
        case "integer":
            return jnp.round(x)
        case "sign":
            return jnp.sign(x)
        case "float":
            return _float_codes(x, format)
    return _table_codes(x, format)


def decode(codes: Array, format: Format, dtype: Any = jnp.float32) -> Array:
    """Decodes codes within the ends to levels.

    Args:
      codes: ``[...]`` integers, or floats that are whole.
      format: any.
      dtype: float32 or float64.

    Example:
      >>> decode(jnp.array([-7, 0, 3]), fp4()).tolist()
      [-6.0, 0.0, 1.5]
    """
    codes = codes.astype(dtype)
    match format.kind:
        case "integer" | "sign":
            return codes
        case "float":
            return _float_levels(codes, format)
    return _table_levels(codes, format)


def to_integers(codes: Array, grid: Grid, format: Format) -> tuple[Array, Grid]:
    """Converts codes of any format with an integer form to int8 that a matmul can read, and their grid.

    Args:
      codes: ``[...]`` int8.
      grid: of the codes.
      format: of the codes.

    Returns:
      ``(integers, grid)`` with ``(integers - zero_point) * scale`` the very numbers that the codes stand for.

    Raises:
      ArgumentError: for a format without an integer form.

    Example:
      >>> integers, grid = to_integers(jnp.array([-3, 7], jnp.int8), Grid(jnp.ones(1), jnp.zeros(1, int)), fp4())
      >>> integers.tolist(), grid.scale.tolist()
      ([-3, 12], [0.5])
    """
    if format.kind == "integer" or format.kind == "sign":
        return codes, grid
    whole = decode(codes, format) * (1 / check_integer_form(format))
    return whole.astype(jnp.int8), Grid(grid.scale * format.unit, grid.zero_point, grid.block)


def check_integer_form(format: Format) -> float:
    """Returns the unit of a format's integer form.

    Raises:
      ArgumentError: for one without an integer form.
    """
    if format.unit is None:
        having = ", ".join(name for name, each in every_format().items() if each.unit)
        raise ArgumentError(f"{format.name} has no integer form; those that have one are {having}")
    return format.unit


def _check_bits(name: str, bits: Any, least: int, most: int) -> None:
    if not isinstance(bits, Integral) or isinstance(bits, bool) or not least <= int(bits) <= most:
        raise ArgumentError(f"{name} needs {least} to {most} bits, got {bits!r}")


def _mirrored(name: str, bits: int, positive: list[float], **more: Any) -> Format:
    levels = (*(-level for level in reversed(positive)), 0.0, *positive)
    return Format(name, bits, levels, -len(positive), **more)


def _float(name: str, bits: int, mantissa: int, least: int, top: int) -> Format:
    def level(code: int) -> float:
        binade = max(code >> mantissa, 1) - 1
        return (code - (binade << mantissa)) * 2.0 ** (least - mantissa + binade)

    return _mirrored(name, bits, [level(code) for code in range(1, top + 1)], kind="float", mantissa=mantissa)


def _least_exponent(format: Format) -> int:
    """The least exponent of normal numbers: the smallest level is the last bit of the mantissa there."""
    return int(np.log2(format.levels[format.top + 1])) + format.mantissa


def _float_codes(x: Array, format: Format) -> Array:
    """By the exponent's bits: ``exponent * 2**mantissa + x / 2**(exponent - mantissa)``, rounded once."""
    least, per_binade = _least_exponent(format), 2.0**format.mantissa
    size = jnp.minimum(jnp.abs(x), 2 * format.levels[-1])
    shift, bias, integers = _anatomy(x.dtype)
    exponent = jnp.maximum((lax.bitcast_convert_type(size, integers) >> shift) - bias, least)
    steps = jnp.round(size / two_to_the(exponent - format.mantissa, x.dtype))
    codes = (exponent - least).astype(x.dtype) * per_binade + steps
    return jnp.where(x < 0, -codes, codes)


def _float_levels(codes: Array, format: Format) -> Array:
    size, per_binade = jnp.abs(codes), 2.0**format.mantissa
    binade = jnp.maximum(jnp.floor(size / per_binade), 1) - 1
    power = two_to_the(
        binade.astype(_anatomy(codes.dtype)[2]) + (_least_exponent(format) - format.mantissa), codes.dtype
    )
    levels = (size - binade * per_binade) * power
    return jnp.where(codes < 0, -levels, levels)


def _anatomy(dtype: Any) -> tuple[int, int, Any]:
    """Bits of the mantissa, bias of the exponent, and the integers of that width."""
    return (52, 1023, jnp.int64) if dtype == jnp.float64 else (23, 127, jnp.int32)


def two_to_the(exponent: Array, dtype: Any) -> Array:
    """Computes ``2 ** exponent``, int32 ``[...]``, exactly in a floating ``dtype``: ``exp2`` may be off by a bit."""
    shift, bias, integers = _anatomy(dtype)
    return lax.bitcast_convert_type((exponent + bias).astype(integers) << shift, dtype)


@functools.partial(jax.jit, static_argnames="format")  # fused: the comparisons are never laid out in memory
def _table_codes(x: Array, format: Format) -> Array:
    levels = np.asarray(format.levels)
    edges = ((levels[1:] + levels[:-1]) / 2).astype(x.dtype)
    upper_is_even = (np.arange(1, len(levels)) + format.bottom) % 2 == 0
    edges = np.where(upper_is_even, np.nextafter(edges, -np.inf, dtype=x.dtype), edges)
    above = jnp.sum(x[None] > _column(edges, x), 0, dtype=jnp.int32)
    beyond = (x > levels[-1]).astype(jnp.int32) - (x < levels[0]).astype(jnp.int32)
    return jnp.where(jnp.isnan(x), x, (above + beyond + format.bottom).astype(x.dtype))


@functools.partial(jax.jit, static_argnames="format")
def _table_levels(codes: Array, format: Format) -> Array:
    levels, own = (np.asarray(values, codes.dtype) for values in (format.levels, range(format.bottom, format.top + 1)))
    chosen = jnp.where(codes[None] == _column(own, codes), _column(levels, codes), 0)
    return jnp.where(jnp.isnan(codes), codes, jnp.sum(chosen, 0))


def _column(values: np.ndarray, like: Array) -> Array:
    return jnp.asarray(values).reshape(-1, *[1] * like.ndim)
