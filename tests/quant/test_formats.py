"""Formats against the tables of ml_dtypes, the formulas of the papers, and each other: codes, levels, ties."""

import itertools

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import stats

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.quant import Format, apot, dequantize, every_format, fp4, fp8, integer, named, nf4, power_of_two, quantize
from jaxcomp.quant.formats import decode, encode

formats = pytest.mark.parametrize("format", every_format().values(), ids=every_format().keys())
KINDS = ["binary", "int2", "int8_affine", "pot4", "apot6", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "nf4"]
kinds = pytest.mark.parametrize("format", [named(name) for name in KINDS], ids=KINDS)
FLOATS = {"float8_e4m3fn": fp8(4), "float8_e5m2": fp8(5), "float4_e2m1fn": fp4()}
floats = pytest.mark.parametrize(("name", "format"), FLOATS.items(), ids=FLOATS.keys())


def codes_of(format: Format):
    return np.arange(format.bottom, format.top + 1)


def rounded(x, format):
    return np.asarray(decode(jnp.clip(encode(jnp.asarray(x), format), format.bottom, format.top), format))


@formats
def test_every_code_is_the_code_of_its_level(format):
    codes, levels = codes_of(format), np.float32(format.levels)
    np.testing.assert_array_equal(decode(jnp.asarray(codes), format), levels)
    np.testing.assert_array_equal(encode(jnp.asarray(levels), format), codes)
    assert (np.diff(levels) > 0).all()
    assert format.levels[-format.bottom] == 0
    assert -128 <= format.bottom <= 0 < format.top <= 127
    assert len(codes) <= 2**format.bits or format.kind == "sign"  # the zeros of signs are a mask
    assert named(format.name) == format


@kinds
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantize_undoes_dequantize_at_any_scale(rng, format, dtype):
    codes = jnp.asarray(codes_of(format), jnp.int8)[:, None]
    grid = jc.Grid(jnp.asarray(2.0 ** rng.uniform(-9, 9, (1, 9)), jnp.float32), jnp.zeros((1, 9), jnp.int32))
    values = dequantize(jnp.broadcast_to(codes, (codes.size, 9)), grid, dtype, format)
    np.testing.assert_array_equal(quantize(values, grid, format), np.broadcast_to(codes, values.shape))


@kinds
def test_rounds_to_the_nearest_level_and_ties_to_the_even_code(rng, format):
    if format.kind == "sign":
        assert encode(jnp.array([-1e-30, -0.0, 0.0, 1e-30, 9.0]), format).tolist() == [-1, 0, 0, 1, 1]
        return
    levels, codes = np.asarray(format.levels), codes_of(format)
    middles = (levels[1:] + levels[:-1]) / 2
    exact = np.float32(middles) == middles
    even = np.where(codes[1:] % 2 == 0, codes[1:], codes[:-1])
    np.testing.assert_array_equal(np.asarray(encode(jnp.asarray(np.float32(middles)), format))[exact], even[exact])
    x = np.float32(rng.uniform(levels[0], levels[-1], 300))
    off = np.abs(x[:, None] - levels).min(1)
    np.testing.assert_allclose(np.abs(x - rounded(x, format)), off, rtol=1e-5, atol=1e-6)
    assert np.isnan(rounded(np.float32([np.nan]), format)).all()


@floats
def test_small_floats_are_those_of_ml_dtypes(rng, name, format):
    """Casts of NumPy's, over all magnitudes, subnormals and ties; beyond the end the largest."""
    dtype, highest = np.dtype(getattr(ml_dtypes, name)), format.levels[-1]
    assert highest == float(ml_dtypes.finfo(dtype).max)
    x = np.float32(rng.normal(size=3000) * 2.0 ** rng.integers(-20, 17, 3000))
    x = np.concatenate([x, np.float32([0, highest * 1.01, -highest * 9])])
    wanted = np.clip(x, -highest, highest).astype(dtype)
    np.testing.assert_array_equal(rounded(x, format), wanted.astype(np.float32))
    if dtype.itemsize == 1 and name != "float4_e2m1fn":
        patterns = np.clip(np.asarray(encode(jnp.asarray(np.abs(x)), format)), 0, format.top)
        np.testing.assert_array_equal(patterns, np.abs(wanted).view(np.uint8))


def test_nf4_lies_at_quantiles_of_the_normal_distribution():
    end = 0.9677083  # the published offset: mean of 1 - 1/(2 * 15) and 1 - 1/(2 * 16)
    positive = stats.norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    negative = -stats.norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    levels = np.sort([*positive, 0, *negative]) / positive.max()
    np.testing.assert_allclose(nf4().levels, levels, atol=2e-7)


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_apot_is_the_sum_of_one_power_from_each_set(bits):
    """The sets as the authors' code writes them out, in units of their smallest power."""
    sets = {
        3: [[1, 2, 3]],
        4: [[1, 2, 4], [3]],
        5: [[1, 3, 5], [2, 4, 6]],
        6: [[1, 3, 6], [2, 4, 7], [5]],
    }[bits]
    sums = {sum(choice) for choice in itertools.product(*([0, *(2.0**-e for e in term)] for term in sets))}
    wanted = np.asarray(sorted(sums)) * 2.0 ** max(map(max, sets))
    np.testing.assert_array_equal(apot(bits).levels[len(wanted) - 1 :], wanted)
    assert len(wanted) == 2 ** (bits - 1)


def test_integer_forms_are_the_very_numbers():
    having = {name for name, each in every_format().items() if each.unit}
    assert {"pot4", "apot6", "fp4_e2m1", "binary", "int8"} <= having
    assert not {"pot5", "fp8_e4m3", "fp8_e5m2", "nf4"} & having
    grid = jc.Grid(jnp.array([0.3]), jnp.array([0]))
    for name in having:
        codes = jnp.asarray(codes_of(named(name)), jnp.int8)
        whole, own = jc.quant.to_integers(codes, grid, named(name))
        assert whole.dtype == jnp.int8
        np.testing.assert_array_equal(dequantize(whole, own), dequantize(codes, grid, bits=named(name)))
    with pytest.raises(ArgumentError, match=r"nf4 has no integer form; those that have one are .*fp4_e2m1"):
        jc.quant.to_integers(jnp.zeros(1, jnp.int8), grid, nf4())


WRONG = {
    "power_of_two needs 2 to 5 bits, got 6": lambda: power_of_two(6),
    "apot needs 3 to 6 bits, got 2": lambda: apot(2),
    "fp8 has 4 or 5 bits of exponent, got 3": lambda: fp8(3),
    "no format is called 'int9'; there are apot3": lambda: jc.quant.fake("int9"),
    r"no format is called 'fp8' \(did you mean 'fp8_e4m3' or 'fp8_e5m2'\?\)": lambda: jc.quant.fake("fp8"),
    "nf4 has no zero point": lambda: jc.quant.fake("nf4", symmetric=False),
    "1 bit are -1 and 1 and have no zero point": lambda: integer(1, symmetric=False),
}


@pytest.mark.parametrize(("message", "call"), WRONG.items(), ids=WRONG.keys())
def test_formats_that_do_not_exist_are_refused(message, call):
    with pytest.raises(ArgumentError, match=message):
        call()
