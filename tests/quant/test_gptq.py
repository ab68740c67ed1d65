"""GPTQ, descent and AdaRound: what slow NumPy computes in float64; never above rounding to the nearest; zeros stay."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.factored import Factored
from jaxcomp.core.quadratic import damped
from jaxcomp.quant.adaround import adaround
from jaxcomp.quant.formats import Format, as_format
from jaxcomp.quant.gptq import descend, errors_in_order, fixed, fixed_in_order, gptq
from jaxcomp.quant.ranges import quantized

RNG = np.random.default_rng(0)
GROUPS, SIZE, OUT = 2, 13, 5
WEIGHT = jnp.asarray(RNG.standard_normal((GROUPS, SIZE, OUT)), jnp.float32)
ROWS = RNG.standard_normal((GROUPS, 40, SIZE)) @ RNG.standard_normal((GROUPS, SIZE, SIZE)) + 1
MOMENT = damped(jnp.asarray(np.einsum("gpi,gpj->gij", ROWS, ROWS), jnp.float32))
FORMATS = [as_format(4), as_format(3, symmetric=False), as_format("nf4"), as_format("fp4_e2m1"), as_format(1)]


def grid_of(format: Format) -> jc.Grid:
    """A scale for each output, and for every fourth input another."""
    high = jnp.max(jnp.abs(WEIGHT), axis=1, keepdims=True) * (1 + jnp.arange(SIZE)[:, None] // 4)
    zero = jnp.full(high.shape, 1 if format.affine else 0, jnp.int32)
    return jc.Grid(high / max(format.levels), zero)


def error(values: Any, aim: Any = WEIGHT) -> np.ndarray:
    """The squared error of each output, in float64."""
    change = np.asarray(values, np.float64) - np.asarray(aim, np.float64)
    return np.einsum("gio,gij,gjo->go", change, np.asarray(MOMENT, np.float64), change)


def slow_gptq(format: Format, grid: jc.Grid, act_order: bool) -> np.ndarray:
    """Optimal brain quantization in a fixed order: each input's error is made up for by those that are left."""
    found = np.zeros(WEIGHT.shape)
    scale, zero = (np.broadcast_to(x, WEIGHT.shape) for x in (grid.scale, grid.zero_point))
    levels = np.asarray(format.levels)
    for g in range(GROUPS):
        moment, weight = np.asarray(MOMENT[g], np.float64), np.asarray(WEIGHT[g], np.float64)
        order = np.argsort(-np.diag(moment), kind="stable") if act_order else np.arange(SIZE)
        left = list(order)
        for i in order:
            inverse = np.linalg.inv(moment[np.ix_(left, left)])
            own = levels[None] if not format.affine else levels[None] - zero[g, i][:, None]
            choices = own * np.asarray(scale[g, i], np.float64)[:, None]
            if format.kind == "sign":
                choices = choices[:, [0, 2]]
            now = choices[np.arange(OUT), np.abs(choices - weight[i][:, None]).argmin(1)]
            found[g, i] = now
            step = (weight[i] - now) / inverse[0, 0]
            weight[left] -= inverse[:, :1] * step[None]
            left = left[1:]
    return found


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_gptq_is_optimal_brain_quantization_in_a_fixed_order(format: Format, act_order: bool) -> None:
    grid = grid_of(format)
    fast = gptq(WEIGHT, MOMENT, grid, format, act_order=act_order, block=4)
    np.testing.assert_allclose(fast, slow_gptq(format, grid, act_order), rtol=1e-6)


def test_blocks_change_nothing() -> None:
    grid = grid_of(FORMATS[0])
    first, second = (gptq(WEIGHT, MOMENT, grid, FORMATS[0], block=block) for block in (3, 128))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("groups", "size", "out"), [(1, 70, 300), (1, 5, 2100), (3, 5, 70)])
def test_shapes_that_are_padded_are_rounded_as_their_columns_are(groups: int, size: int, out: int) -> None:
    """And the errors are those of the outputs."""
    rows = RNG.standard_normal((groups, 3 * size, size)) @ RNG.standard_normal((groups, size, size)) + 1
    weight = np.asarray(RNG.standard_normal((groups, size, out)) * (RNG.random((groups, size, out)) < 0.9), np.float32)
    inputs = Factored.of(np.einsum("gpi,gpj->gij", rows, rows), 0.01, True)
    grid = jc.Grid(np.abs(weight).max(1, keepdims=True) / 7 + np.float32(1e-3), np.zeros((groups, 1, out), np.int32))
    kept, numbers = weight != 0, [np.broadcast_to(x, weight.shape) for x in (*grid[:2], weight != 0)]
    found, errors = fixed(weight, inputs, numbers, FORMATS[0])
    assert not found[~kept].any()
    np.testing.assert_allclose(errors, inputs.error(found - weight), rtol=1e-3)
    moved = descend(weight, found, inputs.moment, grid, FORMATS[0], kept)
    assert (inputs.error(moved - weight) <= errors * (1 + 1e-4)).all()
    some = slice(out // 3, out // 3 + 1)
    alone = jc.Grid(*(x[..., some] for x in grid[:2])), FORMATS[0], kept[..., some]
    np.testing.assert_array_equal(gptq(weight[..., some], inputs.moment, *alone), found[..., some])
    again = descend(weight[..., some], found[..., some], inputs.moment, *alone)
    np.testing.assert_array_equal(again, moved[..., some])


def slow_descend(start: Any, format: Format, grid: jc.Grid, sweeps: int) -> np.ndarray:
    """Row after row is set to what is nearest to the least error, and every slope computed anew."""
    found, moment = np.asarray(start, np.float64).copy(), np.asarray(MOMENT, np.float64)
    for i in [*range(SIZE)] * sweeps:
        slope = np.einsum("gj,gjo->go", moment[:, i], found - np.asarray(WEIGHT, np.float64))
        best = jnp.asarray(found[:, i] - slope / moment[:, i, i, None], jnp.float32)
        found[:, i] = quantized(best, jc.Grid(grid.scale[:, i], grid.zero_point[:, i]), format)
    return found


@pytest.mark.parametrize("block", [4, 64])
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_descent_is_coordinate_descent_whatever_the_blocks(format: Format, block: int) -> None:
    grid = grid_of(format)
    start = quantized(WEIGHT, grid, format)
    fast = descend(WEIGHT, start, MOMENT, grid, format, sweeps=2, block=block)
    np.testing.assert_allclose(fast, slow_descend(start, format, grid, 2), rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_descent_never_raises_the_error_and_ends_where_no_code_is_better(format: Format) -> None:
    grid = grid_of(format)
    start = quantized(WEIGHT, grid, format)
    once, often = (descend(WEIGHT, start, MOMENT, grid, format, sweeps=sweeps) for sweeps in (1, 30))
    assert (error(once) <= error(start) * (1 + 1e-5)).all()
    assert (error(often) <= error(once) * (1 + 1e-5)).all()
    assert error(often).sum() < error(start).sum()
    scale, zero = (np.broadcast_to(x, WEIGHT.shape) for x in (grid.scale, grid.zero_point))
    for level in format.levels:
        for i in range(SIZE):
            if format.kind == "sign" and level == 0:
                continue
            other = np.asarray(often, np.float64).copy()
            other[:, i] = (level - zero[:, i]) * scale[:, i]
            assert (error(other) >= error(often) * (1 - 1e-5)).all()


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_adaround_takes_one_of_the_two_nearest_levels_and_is_better_on_the_whole(format: Format) -> None:
    grid = grid_of(format)
    learned, plain = adaround(WEIGHT, MOMENT, grid, format), quantized(WEIGHT, grid, format)
    assert error(learned).sum() < error(plain).sum()
    scale, zero = (np.broadcast_to(x, WEIGHT.shape) for x in (grid.scale, grid.zero_point))
    levels = [level for level in format.levels if format.kind != "sign" or level]
    x = np.asarray(WEIGHT, np.float64) / scale + zero
    off = np.sort(np.abs(x[..., None] - levels), -1)
    np.testing.assert_array_less(np.abs(np.asarray(learned) / scale + zero - x), off[..., 1] + 1e-4)


@pytest.mark.parametrize("round_", [gptq, adaround], ids=["gptq", "adaround"])
def test_what_is_pruned_stays_pruned_and_the_rest_makes_up_for_it(round_: Any) -> None:
    grid, kept = grid_of(FORMATS[0]), jnp.asarray(RNG.random(WEIGHT.shape) < 0.6)
    found = np.asarray(round_(WEIGHT, MOMENT, grid, FORMATS[0], kept))
    assert not found[~np.asarray(kept)].any()
    moved = np.asarray(descend(WEIGHT, jnp.asarray(found), MOMENT, grid, FORMATS[0], kept))
    assert not moved[~np.asarray(kept)].any()
    assert error(moved).sum() <= error(found).sum() * (1 + 1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_outputs_are_given_up_only_where_their_errors_are_too_large(groups: int) -> None:
    rows, weight = RNG.standard_normal((groups, 90, 30)), RNG.standard_normal((groups, 30, 9)).astype(np.float32)
    inputs = Factored.of(np.einsum("gpi,gpj->gij", rows, rows), 0.01)
    scale = np.broadcast_to(np.float32([0.2, 0.3, 1.5] * 3), weight.shape)
    numbers = [scale, np.zeros(weight.shape, np.int32), np.ones(weight.shape, bool)]
    whole, errors = fixed_in_order(weight, inputs.upper, numbers, FORMATS[0], 4)
    most = np.broadcast_to(np.sort(errors, 2)[..., 5:6], errors.shape)
    found, some = fixed_in_order(weight, inputs.upper, numbers, FORMATS[0], 4, most=most)
    near = errors <= most
    np.testing.assert_array_equal(np.isfinite(some), near)
    np.testing.assert_allclose(some[near], errors[near], rtol=1e-5)
    np.testing.assert_array_equal(*(np.where(near, x, 0) for x in (found, whole)))
    change = whole - weight
    np.testing.assert_allclose(errors_in_order(change, inputs.upper, 4), inputs.error(change), rtol=1e-3)
    np.testing.assert_allclose(errors_in_order(change, inputs.upper, 4), errors, rtol=1e-3)
