"""Factors compute what the weights did; truncated, they miss them by what was dropped; what stays dense is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.rewrite import choose, densify, factorize, shrink
from tests.rewrite.lowrank.test_factors import conv, full, lefts, methods, normal
from tests.rewrite.parity import TOLERANCE, distance, quick, randomize

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 12)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((12, 16)), "b": jnp.ones(16), "c": jnp.ones((16, 10)), "d": jnp.ones((10, 3))})
IMAGE = jnp.asarray(RNG.standard_normal((2, 9, 8, 6)), jnp.float32)


def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(jax.nn.gelu(x @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


def test_spatial_svd_is_that_of_jaderberg() -> None:
    params = {"w": normal(3, 2, 6, 5)}
    _, factors = factorize(conv((1, 1), "SAME"), params, IMAGE, rank=4, method="spatial")
    matrix = np.asarray(params["w"], np.float64).transpose(0, 2, 1, 3).reshape(18, 10)
    u, s, vt = np.linalg.svd(matrix)
    nearest = ((u[:, :4] * s[:4]) @ vt[:4]).reshape(3, 6, 2, 5).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(densify(factors)["w"], nearest, atol=1e-5)


# Ranks and budgets.


def test_energy_is_reached_by_the_smallest_rank() -> None:
    new, factors = factorize(apply_fn, PARAMS, X, energy=0.9, cheaper=False)
    for row in new.report.rows:
        s2 = np.linalg.svd(np.asarray(PARAMS[row.path], np.float64), compute_uv=False) ** 2
        assert row.rank == (1 + int(np.sum(np.cumsum(s2) < 0.9 * s2.sum())),)
    assert factors["b"] is PARAMS["b"]


def test_the_cheapest_method_at_equal_energy_is_taken() -> None:
    params, options = {"w": normal(3, 3, 16, 16)}, {"energy": 0.9, "cheaper": False}
    costs = {
        name: factorize(conv((1, 1), "SAME"), params, normal(1, 8, 8, 16), method=name, **options)[0].report.macs
        for name in ("svd", "tucker", "spatial")
    }
    new, _ = factorize(conv((1, 1), "SAME"), params, normal(1, 8, 8, 16), **options)
    assert new.report.macs == min(costs.values())


def test_ranks_by_number_fraction_and_rule() -> None:
    def ranks(**options: Any) -> dict[str, tuple[int, ...]]:
        new, _ = factorize(apply_fn, PARAMS, X, cheaper=False, **options)
        return {row.path: row.rank for row in new.report.rows}

    assert ranks(rank=2) == {"a": (2,), "c": (2,), "d": (2,)}
    assert ranks(rank=0.5) == {"a": (6,), "c": (5,), "d": (2,)}
    assert ranks(rank=[("a", 3), ("c", None), (".*", 1.0)]) == {"a": (3,), "c": (), "d": (3,)}
    assert ranks(rank=2, method=[("a", "dense")]) == {"a": (), "c": (2,), "d": (2,)}
    new, _ = factorize(conv((1, 1), "SAME"), {"w": normal(3, 3, 6, 8)}, IMAGE, rank=(2, 0.5), cheaper=False)
    assert new.report.rows[0].rank == (2, 4)


def test_what_would_cost_more_stays_dense() -> None:
    new, same = factorize(apply_fn, PARAMS, X, rank=6)
    assert lefts(new) == {"d": "svd of rank 3 would cost 156 MACs"}
    assert same["d"] is PARAMS["d"]
    assert "skipped because" in str(new.report)


@pytest.mark.parametrize("kind", ["macs", "bytes"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 1.0])
def test_budgets_are_reached_and_tight(kind: str, share: float) -> None:
    new, factors = factorize(apply_fn, PARAMS, X, **{kind: share})
    total, reached = getattr(new.report, f"dense_{kind}"), getattr(new.report, kind)
    assert reached <= share * total
    if kind == "bytes":
        assert reached == sum(leaf.nbytes for leaf in jax.tree.leaves(factors))
    else:
        assert reached == jc.trace.sites(new, factors, X).macs
    for row in new.report.rows:  # one more component anywhere is one too many
        if row.method:
            one = getattr(row, kind) // row.rank[0]
            more = min(one, getattr(row, f"dense_{kind}") - getattr(row, kind))
            assert reached + max(more, 0) > share * total or row.rank[0] == min(PARAMS[row.path].shape)
    assert share < 1 or all(not row.method or row.energy > 1 - 1e-9 for row in new.report.rows)


def test_an_absolute_budget_and_one_that_cannot_be_reached() -> None:
    new, _ = factorize(apply_fn, PARAMS, X, macs=900)
    assert 800 < new.report.macs <= 900
    with pytest.raises(ArgumentError, match=r"macs=0.01 asks for 15 of 1,528 MACs.*reach is 268 \(0.175\)"):
        factorize(apply_fn, PARAMS, X, macs=0.01)


# Data.


def correlated(seed: int) -> jax.Array:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((64, 12)) * np.geomspace(1, 0.01, 12) @ rng.standard_normal((12, 12))
    return jnp.asarray(mixed, jnp.float32)


@pytest.mark.parametrize("rank", [1, 3, 6, 9])
def test_data_aware_factors_are_the_best_of_their_rank_on_the_data(rank: int) -> None:
    params, x = {"w": normal(12, 16)}, correlated(0)

    def function(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["w"]

    dense = np.asarray(function(params, x), np.float64)

    def error(**options: Any) -> float:
        _, factors = factorize(function, params, x, rank=rank, cheaper=False, **options)
        return float(((dense - np.asarray(x, np.float64) @ np.asarray(densify(factors)["w"], np.float64)) ** 2).sum())

    least = (np.linalg.svd(dense, compute_uv=False)[rank:] ** 2).sum()
    aware = error(batches=[(x[:40],), x[40:]])
    assert aware == pytest.approx(least, rel=1e-3, abs=1e-5 * (dense**2).sum())
    assert aware <= error() * (1 + 1e-6)


def test_data_flow_through_convolutions_scans_and_shared_weights() -> None:
    params = {
        "conv": normal(3, 3, 6, 5),
        "loop": normal(5, 5, seed=2) / 3,
        "stack": normal(2, 5, 5, seed=3),
        "gate": normal(5, 5),
    }

    @jax.checkpoint
    def trunk(p: Any, x: jax.Array) -> jax.Array:
        h = conv((2, 2), "SAME")({"w": p["conv"]}, x).mean((1, 2))
        h = lax.scan(lambda c, _: (jnp.tanh(c @ p["loop"]), None), h, length=3)[0]
        return lax.scan(lambda c, w: (c + jax.nn.relu(c @ w), None), h, p["stack"])[0]

    def function(p: Any, x: jax.Array) -> jax.Array:
        h = trunk(p, x)
        return lax.cond(h.sum() > 0, lambda w: h @ w, lambda w: h @ w, p["gate"])

    new, factors = factorize(function, params, IMAGE, rank=2, cheaper=False, batches=[IMAGE, IMAGE + 1])
    assert methods(new) == dict.fromkeys(("conv", "gate", "loop", "stack"), "svd")
    plain = factorize(function, params, IMAGE, rank=2, cheaper=False, method="svd")[1]
    apart = {
        path: distance(a, b) for (path, a), b in zip(densify(factors).items(), densify(plain).values(), strict=True)
    }
    assert all(each > 1e-3 for each in apart.values())
    full_new, full_factors = full(function, params, IMAGE, batches=[IMAGE])
    assert distance(function(params, IMAGE), full_new(full_factors, IMAGE)) <= TOLERANCE


# The new function is an ordinary one.


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any, Any]:
    """The new function, its parameters, and dense ones that compute the same."""
    new, factors = factorize(apply_fn, PARAMS, X, rank=3, cheaper=False)
    return new, factors, densify(factors)


def test_factors_are_fine_tuned(pair: Any) -> None:
    new, factors, _ = pair

    @quick
    def slopes(factors: Any) -> Any:
        dense = densify(factors)
        own = jax.value_and_grad(lambda p: (new(p, X) ** 2).sum())(factors)
        return own, jax.vjp(densify, factors)[1](jax.grad(lambda p: (apply_fn(p, X) ** 2).sum())(dense))[0]

    (loss, own), pulled = slopes(factors)
    assert distance(pulled, own) <= TOLERANCE
    optimizer = optax.sgd(1e-4)
    updates, _ = optimizer.update(own, optimizer.init(factors))
    (better, _), _ = slopes(optax.apply_updates(factors, updates))
    assert better < loss


def test_factors_shrink_and_shrunk_functions_are_factorized() -> None:
    params = PARAMS
    keep = choose(0.25, "random")
    cut = shrink(apply_fn, params, X, keep=keep)
    after = full(*cut, X)
    assert distance(cut[0](cut[1], X), after[0](after[1], X)) <= TOLERANCE
    new, factors = factorize(apply_fn, params, X, rank=3, cheaper=False)
    small_fn, small = shrink(new, factors, X, keep={"a/out": np.arange(16) < 12})
    assert [part.shape for part in small["a"].parts.values()] == [(12, 3), (3, 12)]
    masked = {**densify(factors)}
    masked["a"], masked["b"] = (masked[name] * (np.arange(16) < 12) for name in ("a", "b"))
    assert distance(apply_fn(masked, X), small_fn(small, X)) <= TOLERANCE
    assert densify(small)["a"].shape == (12, 12)


def test_factorized_again() -> None:
    new, factors = factorize(apply_fn, PARAMS, X, rank=4, cheaper=False)
    newer, fewer = factorize(new, factors, X, rank=[("a/in", 2), ("a/out", None)], cheaper=False)
    assert methods(newer) == {"a/in": "svd", "a/out": "", "c/in": "", "c/out": "", "d/in": "", "d/out": ""}
    assert distance(new(densify_once(fewer), X), newer(fewer, X)) <= TOLERANCE


def densify_once(params: Any) -> Any:
    """The outer factors, whose inner ones are packed leaves themselves, multiplied out."""
    inner = params["a"].parts["in"].dense()
    return {**params, "a": params["a"]._with(parts={**params["a"].parts, "in": inner})}


def test_half_precision_keeps_its_dtype() -> None:
    params, x = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS), X.astype(jnp.bfloat16)
    new, factors = full(apply_fn, params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.dtype("bfloat16")}
    out = quick(new)(factors, x)
    assert out.dtype == jnp.bfloat16
    assert distance(quick(apply_fn)(params, x), out) <= 0.05


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of rank=, energy=, macs= and bytes=; got none"),
        ({"rank": 2, "macs": 0.5}, "got rank, macs"),
        ({"rank": 0}, "rank must be a whole number"),
        ({"rank": 1.5}, "rank must be"),
        ({"rank": True}, "rank must be"),
        ({"energy": 2}, r"energy must be a share in \(0, 1\]"),
        ({"bytes": 0.0}, "bytes must be"),
        ({"rank": (1, 2)}, "the rank of 'a' must be 1 number, got"),
        ({"rank": 2, "method": "qr"}, "method must be one of svd, tucker, spatial or dense; got 'qr' for 'a'"),
    ],
)
def test_what_cannot_be_asked_for(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        factorize(apply_fn, PARAMS, X, **options)


def test_rules_parameters_and_functions_that_do_not_fit() -> None:
    with pytest.raises(RuleError, match="matches no parameter"):
        factorize(apply_fn, PARAMS, X, rank=[("b", 2)])
    with pytest.raises(ArgumentError, match="works on values"):
        factorize(apply_fn, jax.eval_shape(lambda: PARAMS), X, rank=2)
    with pytest.raises(ArgumentError, match="pass them instead"):
        factorize(lambda p, x: apply_fn(PARAMS, x), {"a": jnp.ones((2, 2))}, X, rank=2)
    new, _ = factorize(apply_fn, PARAMS, X, rank=2)
    with pytest.raises(ArgumentError, match="the function that factorize returned needs the parameters"):
        new(PARAMS, X)
    new, _ = factorize(apply_fn, PARAMS, X, rank=2, method="tucker")
    assert set(lefts(new).values()) == {"Tucker-2 needs a convolution with a window"}
