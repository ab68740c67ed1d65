"""The view is the nearest weight of its rank; its factors compute what it does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import densify, factorize

RNG = np.random.default_rng(0)
SHAPES = [(7, 5), (5, 7), (3, 2, 4, 6), (2, 9)]


def nearest(weight: Any, rank: int) -> np.ndarray:
    """By SVD in float64."""
    matrix = np.asarray(weight, np.float64).reshape(-1, weight.shape[-1])
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(weight.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_view_is_the_nearest_of_its_rank(shape: tuple[int, ...]) -> None:
    params = {"w": jnp.asarray(RNG.standard_normal(shape), jnp.float32), "b": jnp.ones(3)}
    flat = jc.lowrank.project(rank=2)
    state = flat.init(params)
    view = flat.apply(params, state)
    np.testing.assert_allclose(view["w"], nearest(params["w"], 2), atol=1e-5)
    assert view["b"] is params["b"]
    notes = flat.describe(params, state, 0)
    assert notes == {"b": jc.Note(skipped="no matrix"), "w": jc.Note(rank=2)}


def test_energy_and_fractions_choose_the_rank() -> None:
    w = jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)
    s2 = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False) ** 2
    for share in (0.3, 0.6, 0.9):
        flat = jc.lowrank.project(energy=share)
        rank = 1 + int(np.sum(np.cumsum(s2) < share * s2.sum()))
        np.testing.assert_allclose(flat.apply(w, flat.init(w)), nearest(w, rank), atol=1e-5)
    half = jc.lowrank.project(rank=0.5)
    np.testing.assert_allclose(half.apply(w, half.init(w)), nearest(w, 3), atol=1e-5)


def test_stacked_kernels_are_projected_one_by_one() -> None:
    w = jnp.asarray(RNG.standard_normal((3, 6, 5)), jnp.float32)
    flat = jc.lowrank.project(rank=2, stack=1)
    for own, layer in zip(flat.apply(w, flat.init(w)), w, strict=True):
        np.testing.assert_allclose(own, nearest(layer, 2), atol=1e-5)


def test_a_schedules_rank_is_traced() -> None:
    w = jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)
    flat = jc.lowrank.project(optax.linear_schedule(1.0, 1 / 6, 5))
    state = flat.init(w)
    run = jax.jit(lambda state, step: (new := flat.update(w, state, step), flat.apply(w, new))[1])
    for step in range(6):
        np.testing.assert_allclose(run(state, step), nearest(w, 6 - step), atol=1e-5)
    counted = jc.lowrank.project(lambda step: 6 - step)
    np.testing.assert_allclose(counted.apply(w, counted.update(w, state, jnp.int32(4))), nearest(w, 2), atol=1e-5)


def test_between_updates_weights_move_within_the_space() -> None:
    w, moved = (jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32) for _ in range(2))
    flat = jc.lowrank.project(rank=2)
    state = flat.init(w)
    vt = np.linalg.svd(np.asarray(w, np.float64))[2][:2]
    np.testing.assert_allclose(flat.apply(moved, state), np.asarray(moved, np.float64) @ vt.T @ vt, atol=1e-5)
    slope = jax.grad(lambda w: (flat.apply(w, state) * moved).sum())
    for at in (w, flat.apply(w, state)):
        np.testing.assert_allclose(slope(at), np.asarray(moved, np.float64) @ vt.T @ vt, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 5), (3, 2, 4, 6)])
def test_factors_of_the_view_are_the_view(shape: tuple[int, ...]) -> None:
    params = {"w": jnp.asarray(RNG.standard_normal(shape), jnp.float32)}
    flat = jc.lowrank.project(rank=2)
    view = flat.apply(params, flat.init(params))

    def function(p: Any, x: jax.Array) -> jax.Array:
        if len(shape) == 2:
            return x @ p["w"]
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=numbers)

    x = jnp.asarray(RNG.standard_normal((3, 7) if len(shape) == 2 else (2, 5, 5, 4)), jnp.float32)
    new, factors = factorize(function, view, x, rank=2, method="svd")
    assert new.report.rows[0].energy == pytest.approx(1)
    np.testing.assert_allclose(densify(factors)["w"], view["w"], atol=3e-6)
    np.testing.assert_allclose(new(factors, x), function(view, x), atol=3e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either rank= or energy=, got rank=None and energy=None"),
        ({"rank": 2, "energy": 0.5}, "either rank= or energy="),
        ({"rank": 0}, "rank must be a whole number of at least 1 or a fraction"),
        ({"rank": 1.5}, "rank must be"),
        ({"energy": 0}, r"energy must be a share in \(0, 1\]"),
        ({"rank": True}, "rank must be"),
        ({"rank": 2, "stack": -1}, "stack must be a number of axes"),
    ],
)
def test_what_cannot_be_asked_for(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        jc.lowrank.project(**options)
