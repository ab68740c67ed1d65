"""Fake quantization against float64, in closed form, and at the edges of the number formats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.quant import code_range, dequantize, fake_quantize, fit_grid, quantize

KINDS = [True, False]
kinds = pytest.mark.parametrize("symmetric", KINDS, ids=["symmetric", "affine"])
widths = pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
TINY = float(np.finfo(np.float32).tiny)


def reference_grid(w, bits, axis, symmetric):
    """Scale and zero point in float64, by the textbook."""
    axes = () if axis is None else np.atleast_1d(axis) % w.ndim
    shared = tuple(a for a in range(w.ndim) if a not in axes)
    low, high = np.minimum(w.min(shared, keepdims=True), 0), np.maximum(w.max(shared, keepdims=True), 0)
    if symmetric:
        return np.maximum(high, -low) / (2 ** (bits - 1) - 1), np.zeros(low.shape)
    scale = (high - low) / (2**bits - 1)
    return scale, -(2 ** (bits - 1)) + np.rint(-low / np.where(scale > 0, scale, 1))


@kinds
@widths
@pytest.mark.parametrize("axis", [None, -1, 0, (0, -1)])
def test_agrees_with_float64(rng, bits, symmetric, axis):
    w = rng.normal(size=(6, 5, 4)).astype(np.float32) * np.float32([0.01, 1, 30, 2])
    grid = fit_grid(jnp.asarray(w), bits, axis, symmetric)
    scale, zero_point = reference_grid(w.astype(np.float64), bits, axis, symmetric)
    np.testing.assert_allclose(grid.scale, scale, rtol=3e-7)
    np.testing.assert_array_equal(grid.zero_point, zero_point)
    assert (grid.scale.dtype, grid.zero_point.dtype) == (jnp.float32, jnp.int32)

    bottom, top = code_range(bits, symmetric)
    exact = w / np.asarray(grid.scale, np.float64) + zero_point
    codes = np.clip(np.rint(exact), bottom, top)
    away_from_halves = np.abs(exact % 1 - 0.5) > 1e-4
    got = np.asarray(quantize(jnp.asarray(w), grid, bits, symmetric))
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got[away_from_halves], codes[away_from_halves])
    assert np.abs(got - exact).max() < 0.5 + 1e-4 or not symmetric  # an affine end may clip by half a code
    view = np.asarray(fake_quantize(jnp.asarray(w), grid, bits, symmetric))
    np.testing.assert_allclose(view, (got - zero_point) * np.asarray(grid.scale, np.float64), rtol=1e-7)
    assert len(np.unique(view)) <= 2**bits * grid.scale.size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_halves_round_to_even(dtype):
    w = jnp.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], dtype) / 4
    grid = jc.Grid(jnp.array([0.25]), jnp.array([0]))
    assert quantize(w, grid, 8).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    assert fake_quantize(w, grid, 8).tolist() == [-0.5, -0.5, 0, 0, 0.5, 0.5, 1.0]
    assert fake_quantize(w, grid, 8).dtype == dtype


@kinds
@widths
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_is_idempotent_at_any_scale(rng, bits, symmetric, dtype):
    """Eight bits of bfloat16 hold 255 codes; the quotient is taken in float32."""
    scales = 2.0 ** rng.uniform(-10, 10, 200)
    w = jnp.asarray(rng.normal(size=(64, 200)) * scales, dtype)
    grid = fit_grid(w, bits, -1, symmetric)
    view = fake_quantize(w, grid, bits, symmetric)
    np.testing.assert_array_equal(fake_quantize(view, grid, bits, symmetric), view)
    np.testing.assert_array_equal(dequantize(quantize(w, grid, bits, symmetric), grid, dtype), view)


@kinds
def test_compiled_grids_equal_eager_ones(rng, symmetric):
    """A compiler multiplies by the reciprocal where it is told to divide by a constant: grids do not depend on it."""
    w = jnp.asarray(rng.normal(size=(50, 999)), jnp.float32)
    for bits in (2, 3, 4, 8):
        eager, compiled = (f(w) for f in (_fit(bits, symmetric), jax.jit(_fit(bits, symmetric))))
        np.testing.assert_array_equal(eager.scale, compiled.scale)
        np.testing.assert_array_equal(eager.zero_point, compiled.zero_point)


def _fit(bits, symmetric):
    return lambda w: fit_grid(w, bits, -1, symmetric)


@kinds
def test_the_gradient_is_1_in_range_and_0_where_clipped(symmetric):
    grid = jc.Grid(jnp.array([0.5]), jnp.array([0 if symmetric else 2]))
    w = jnp.array([-9.0, -3.0, -1.6, -1.2, 0.0, 0.3, 0.6, 1.6, 9.0])
    bottom, top = code_range(3, symmetric)
    codes = np.rint(np.asarray(w) / 0.5) + (0 if symmetric else 2)
    factor = jnp.arange(1.0, 10.0)
    gradient, to_grid = jax.grad(
        lambda w, scale: jnp.sum(factor * fake_quantize(w, jc.Grid(scale, grid.zero_point), 3, symmetric)), (0, 1)
    )(w, grid.scale)
    np.testing.assert_array_equal(gradient, np.where((codes >= bottom) & (codes <= top), factor, 0))
    assert to_grid.tolist() == [0.0]


@kinds
def test_weights_that_leave_the_range_are_clipped_until_the_next_update(symmetric):
    fake = jc.quant.fake(4, symmetric=symmetric)
    state = fake.init({"w": jnp.array([-1.0, 1.0])})
    moved = {"w": jnp.array([-5.0, 5.0])}
    assert np.abs(fake.apply(moved, state)["w"]).max() < 1.2
    np.testing.assert_allclose(fake.apply(moved, fake.update(moved, state, 1))["w"], moved["w"], rtol=0.1)


@kinds
@widths
def test_zero_tensors_and_zero_channels(bits, symmetric):
    w = jnp.zeros((4, 3)).at[:, 1].set(jnp.array([0.0, 1.0, -1.0, 0.5]))
    for axis in (None, -1):
        for values in (w, jnp.zeros((4, 3))):
            grid = fit_grid(values, bits, axis, symmetric)
            view = np.asarray(fake_quantize(values, grid, bits, symmetric))
            assert np.isfinite(view).all()
            assert (view[:, [0, 2]] == 0).all()
            assert (np.asarray(grid.scale) > 0).all()


@kinds
@widths
@pytest.mark.parametrize("constant", [3.7, -3.7, 1e-30, 1e30, 65504.0, -1.0])
def test_constants_are_represented(bits, symmetric, constant):
    """The farthest value from 0 is an end of the grid."""
    w = jnp.full((3, 2), constant)
    view = fake_quantize(w, fit_grid(w, bits, -1, symmetric), bits, symmetric)
    np.testing.assert_allclose(view, w, rtol=3e-7)


@kinds
@pytest.mark.parametrize("value", [1e-45, 1e-42, 1e-39, TINY, 20 * TINY])
def test_denormal_weights_become_small_and_never_infinite(symmetric, value):
    w = jnp.asarray(np.float32([value, -value, 0]))
    view = np.asarray(fake_quantize(w, fit_grid(w, 8, None, symmetric), 8, symmetric))
    assert np.abs(view).max() <= 1.5 * value + TINY
    assert view[2] == 0


@kinds
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_have_grids_in_float32(rng, symmetric, dtype):
    w = jnp.asarray(rng.normal(size=(30, 4)), dtype)
    grid, wide = fit_grid(w, 8, -1, symmetric), fit_grid(w.astype(jnp.float32), 8, -1, symmetric)
    np.testing.assert_array_equal(grid.scale, wide.scale)
    assert grid.scale.dtype == jnp.float32
    view = fake_quantize(w, grid, 8, symmetric)
    assert view.dtype == dtype
    np.testing.assert_array_equal(view, fake_quantize(w.astype(jnp.float32), wide, 8, symmetric).astype(dtype))


def test_scalars_have_one_scale_whatever_the_axis():
    for axis in (None, -1, 3, (0, 1)):
        grid = fit_grid(jnp.float32(-2.54), 8, axis)
        assert grid.scale.shape == ()
        assert float(fake_quantize(jnp.float32(-2.54), grid, 8)) == pytest.approx(-2.54, rel=3e-7)


def test_axes_may_be_several_and_counted_from_either_end(rng):
    w = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
    assert fit_grid(w, 8, (0, -1)).scale.shape == (3, 1, 7)
    np.testing.assert_array_equal(fit_grid(w, 8, (0, -1)).scale, fit_grid(w, 8, (-3, 2)).scale)
    assert fit_grid(jnp.zeros((0, 4)), 8, -1).scale.shape == (1, 4)


def test_float64_weights_have_grids_in_float64():
    with jax.enable_x64(True):
        grid = fit_grid(jnp.array([1.0, -3.0]), 8)
        assert grid.scale.dtype == jnp.float64
        np.testing.assert_allclose(grid.scale, [3 / 127], rtol=1e-15)


def test_code_ranges():
    assert [code_range(bits, True) for bits in (2, 4, 8)] == [(-1, 1), (-7, 7), (-127, 127)]
    assert [code_range(bits, False) for bits in (2, 4, 8)] == [(-2, 1), (-8, 7), (-128, 127)]


def test_describe_gives_the_bits_and_the_grid():
    fake = jc.quant.fake(4, axis=-1)
    params = {"w": jnp.ones((2, 3)), "count": jnp.array(3)}
    state = fake.init(params)
    notes = fake.describe(params, state, 0)
    assert (notes["w"].bits, notes["w"].grid is state["w"], notes["w"].sparsity) == (4, True, None)
    assert notes["count"].skipped == "not a floating-point tensor"


@pytest.mark.parametrize("bits", [9, 0, -4, True, 2.5, None])
def test_other_bits_are_refused(bits):
    with pytest.raises(ArgumentError, match="bits must be an integer from 1 to 8, got"):
        jc.quant.fake(bits)


def test_bits_may_be_any_whole_number():
    assert bool(jnp.all(view_of(np.int64(4)) == view_of(4)))
    fake, w = jc.quant.fake(np.int64(4)), jnp.ones(2)
    assert type(fake.describe(w, fake.init(w), 0)[""].bits) is int


def view_of(bits):
    w, fake = jnp.array([0.3, -1.0, 0.8]), jc.quant.fake(bits)
    return fake.apply(w, fake.init(w))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@kinds
def test_a_range_wider_than_the_largest_number_does_not_overflow(symmetric, dtype):
    largest = 0.75 * float(jnp.finfo(dtype).max)
    w = jnp.array([largest, -largest, 0], dtype)
    view = np.asarray(fake_quantize(w, fit_grid(w, 8, None, symmetric), 8, symmetric), np.float64)
    np.testing.assert_allclose(view, [largest, -largest, 0], rtol=0.01)


@pytest.mark.parametrize("axis", [2, -3, (0, 5)])
def test_an_axis_that_a_tensor_lacks_is_refused_at_its_path(axis):
    fake = jc.quant.fake(8, axis=axis)
    with pytest.raises(ArgumentError, match=r"dense/kernel: axis .* but the tensor has 2 axes"):
        fake.init({"dense": {"kernel": jnp.ones((2, 3))}})
