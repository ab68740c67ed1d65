"""Factors at every kind of site and in every kind of body; whatever else reads a weight leaves it dense."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.rewrite import densify, factorize
from tests.rewrite.parity import TOLERANCE, distance, quick

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 12)), jnp.float32)
IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 8, 6)), jnp.float32)


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def full(function: Callable[..., Any], params: Any, *inputs: Any, **options: Any) -> tuple[Any, Any]:
    """Factorized to the full rank, which costs more and changes nothing."""
    return factorize(function, params, *inputs, rank=1.0, cheaper=False, **options)


def methods(new: Any) -> dict[str, str]:
    return {row.path: row.method for row in new.report.rows}


def lefts(new: Any) -> dict[str, str]:
    return {row.path: row.skipped for row in new.report.rows if row.skipped}


def dot(*numbers: Any, left: bool = False) -> Callable[..., Any]:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return lax.dot_general(p["w"], x, numbers) if left else lax.dot_general(x, p["w"], numbers)

    return function


def conv(*args: Any, **options: Any) -> Callable[..., Any]:
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    return lambda p, x: lax.conv_general_dilated(x, p["w"], *args, **options)


SITES: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...], str]] = {
    "matmul": (lambda p, x: x @ p["w"], (6, 5), (4, 6), "svd"),
    "transposed": (lambda p, x: x @ p["w"].T, (5, 6), (4, 6), "svd"),
    "weight on the left": (lambda p, x: p["w"] @ x.T, (5, 6), (4, 6), "svd"),
    "reshaped": (lambda p, x: x @ p["w"].reshape(6, 8).T, (3, 4, 4), (4, 8), "svd"),
    "split before": (lambda p, x: jnp.einsum("bhd,hdo->bo", x, p["w"].reshape(2, 3, 5)), (6, 5), (4, 2, 3), "svd"),
    "cast and scaled": (lambda p, x: x @ (-p["w"].astype(jnp.bfloat16) * 2).astype(jnp.float32), (6, 5), (4, 6), "svd"),
    "over a number": (lambda p, x: x @ (2 * p["w"] / 3), (6, 5), (4, 6), "svd"),
    "several summed": (dot(((1, 2), (0, 1)), ((), ())), (3, 4, 5), (2, 3, 4), "svd"),
    "several summed, crosswise": (dot(((2, 1), (0, 1)), ((), ())), (4, 3, 5), (2, 3, 4), "svd"),
    "several free": (dot(((1,), (1,)), ((), ())), (3, 6, 2), (4, 6), "svd"),
    "several free on the left": (dot(((1,), (1,)), ((), ()), left=True), (3, 6, 2), (4, 6), "svd"),
    "batched": (dot(((2,), (1,)), ((1,), (0,))), (3, 6, 5), (4, 3, 6), "svd"),
    "batched on the left": (dot(((1,), (2,)), ((0,), (1,)), left=True), (3, 6, 5), (4, 3, 6), "svd"),
    "1 x 1": (conv((2, 2), "SAME"), (1, 1, 6, 5), IMAGE.shape, "svd"),
    "window, svd": (conv((1, 2), "SAME"), (3, 3, 6, 5), IMAGE.shape, "svd"),
    "window": (conv((1, 2), "SAME"), (3, 2, 6, 5), IMAGE.shape, "tucker"),
    "dilated": (conv((2, 1), ((2, 1), (0, 3)), rhs_dilation=(1, 2)), (3, 2, 6, 5), IMAGE.shape, "tucker"),
    "transposed window": (conv((1, 1), ((2, 1), (0, 1)), lhs_dilation=(2, 3)), (3, 2, 6, 5), IMAGE.shape, "tucker"),
    "other layouts": (
        conv((2, 1), "SAME", dimension_numbers=("CHNW", "OHIW", "WNCH")), (5, 3, 6, 2), (6, 9, 2, 8), "tucker"
    ),
    "spatial": (conv((1, 2), "SAME"), (3, 2, 6, 5), IMAGE.shape, "spatial"),
    "spatial, dilated": (conv((2, 1), ((2, 1), (0, 3)), rhs_dilation=(1, 2)), (3, 2, 6, 5), IMAGE.shape, "spatial"),
    "spatial, transposed": (conv((1, 1), ((2, 1), (0, 1)), lhs_dilation=(2, 3)), (3, 2, 6, 5), IMAGE.shape, "spatial"),
    "spatial, other layouts": (
        conv((2, 1), "SAME", dimension_numbers=("CHNW", "OHIW", "WNCH")), (5, 3, 6, 2), (6, 9, 2, 8), "spatial"
    ),
    "a window of one axis": (conv((1, 2), ((1, 1), (1, 0))), (3, 1, 6, 5), IMAGE.shape, "tucker"),
    "one channel in": (conv((1, 2), "SAME"), (3, 2, 1, 5), (2, 9, 8, 1), "spatial"),
    "three axes": (
        conv((1, 2, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")),
        (3, 2, 2, 4, 5), (2, 5, 6, 4, 4), "spatial"
    ),
    "one axis": (
        conv((2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")), (3, 4, 5), (2, 7, 4), "tucker"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITES)
def test_full_rank_is_exact_at_every_kind_of_site(name: str) -> None:
    function, shape, inputs, method = SITES[name]
    params, x = {"w": normal(*shape)}, normal(*inputs, seed=2)
    new, factors = full(function, params, x, method=method)
    assert methods(new) == {"w": method}
    out, small = quick(function)(params, x), quick(new)(factors, x)
    assert distance(out, small) <= (2e-2 if "cast" in name else TOLERANCE)
    assert distance(params, densify(factors)) <= TOLERANCE
    assert {
        key[0].name if hasattr(key[0], "name") else ""
        for key, _ in jax.tree_util.tree_flatten_with_path(factors["w"])[0]
    } == ({"in", "core", "out"} if method == "tucker" else {"in", "out"})


def sites_of_macs(function: Any, params: Any, x: Any) -> int:
    return jc.trace.sites(function, params, x).macs


@pytest.mark.parametrize("name", SITES)
def test_reported_costs_are_those_of_the_new_function(name: str) -> None:
    function, shape, inputs, method = SITES[name]
    params, x = {"w": normal(*shape)}, normal(*inputs, seed=2)
    new, factors = factorize(function, params, x, rank=2, cheaper=False, method=method)
    (row,) = new.report.rows
    # A part without inputs' share is no site of its own: a convolution is one whatever reads it.
    assert row.macs == sites_of_macs(new, factors, x)
    assert row.dense_macs == sites_of_macs(function, params, x)
    assert row.bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(factors))
    assert row.energy <= 1 + 1e-12


# Control flow: the factors pass into bodies where they can.


def scanned(p: Any, x: jax.Array) -> jax.Array:
    @jax.checkpoint
    def layer(h: jax.Array, w: Any) -> tuple[jax.Array, None]:
        return h + jnp.tanh(h @ w["up"]) @ w["down"], None

    return lax.scan(layer, x, p)[0]


STACK = {"up": normal(3, 8, 9), "down": normal(3, 9, 8, seed=2)}


def test_scanned_layers_are_factorized_layer_by_layer() -> None:
    x = normal(4, 8, seed=3)
    new, factors = factorize(scanned, STACK, x, rank=2)
    assert [part.shape for part in factors["up"].parts.values()] == [(3, 8, 2), (3, 2, 9)]
    for path, dense in densify(factors).items():
        for layer, got in zip(np.asarray(STACK[path], np.float64), dense, strict=True):
            u, s, vt = np.linalg.svd(layer)
            np.testing.assert_allclose(got, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-5)
    assert distance(scanned(densify(factors), x), new(factors, x)) <= TOLERANCE
    assert "dot_general" not in str(jax.make_jaxpr(new)(factors, x)).split("scan[")[0]


def test_a_scan_over_one_layer_and_over_a_part_of_the_axes() -> None:
    x = normal(4, 8, seed=3)
    one = jax.tree.map(lambda leaf: leaf[:1], STACK)
    for params, function in [(one, scanned), (STACK, lambda p, x: scanned(jax.tree.map(lambda w: w[None][0], p), x))]:
        new, factors = full(function, params, x)
        assert distance(function(params, x), new(factors, x)) <= TOLERANCE


@jax.custom_jvp
def layered(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sin(x @ w)


layered.defjvp(lambda p, t: (layered(*p), jnp.cos(p[1] @ p[0]) * (t[1] @ p[0] + p[1] @ t[0])))

BODIES: dict[str, Callable[..., Any]] = {
    "remat": lambda p, x: jax.checkpoint(lambda y: jnp.sin(y @ p["w"]))(x),
    "shared by a scan": lambda p, x: lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, length=2)[0],
    "cond": lambda p, x: lax.cond(x.sum() > 0, lambda w: x @ w, lambda w: x @ w.T, p["w"]),
    "while": lambda p, x: lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ p["w"]), x),
    "jit": lambda p, x: jax.jit(lambda w: x @ w)(p["w"]),
    "custom_jvp": lambda p, x: layered(p["w"], x),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str) -> None:
    params, x = {"w": normal(6, 6)}, normal(4, 6, seed=2)
    new, factors = full(BODIES[name], params, x)
    assert methods(new) == {"w": "svd"}
    assert distance(quick(BODIES[name])(params, x), quick(new)(factors, x)) <= TOLERANCE
    if name != "while":
        slopes = [quick(jax.grad(lambda p, f=f: (f(p, x) ** 2).sum())) for f in (BODIES[name], new)]
        pulled = jax.vjp(densify, factors)[1](slopes[0](params))[0]
        assert distance(pulled, slopes[1](factors)) <= TOLERANCE


# Whatever else reads a weight: it stays dense, or is multiplied out; never wrong.


@jax.custom_vjp
def opaque(w: jax.Array, x: jax.Array) -> jax.Array:
    return x @ w


opaque.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, g: (saved[1].T @ g, g @ saved[0].T))

REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "embedding": (lambda p, x: p["w"][jnp.array([0, 2])] @ p["w"].T, "gather"),
    "penalty": (lambda p, x: (x @ p["w"]).sum() + (p["w"] ** 2).sum(), "integer_pow|square|mul"),
    "result": (lambda p, x: (x @ p["w"], p["w"]), "carried or returned"),
    "concatenated": (lambda p, x: x @ jnp.concatenate([p["w"], p["w"]], 1), "concatenate"),
    "rounded": (lambda p, x: x @ jnp.round(p["w"]), "round"),
    "scaled by channel": (lambda p, x: x @ (p["w"] * jnp.arange(6.0)), "mul"),
    "carried": (
        lambda p, x: lax.scan(lambda c, _: ((c[0] @ c[1], -c[1]), None), (x, p["w"]), length=2)[0][0], "carried"
    ),
    "in two ways": (
        lambda p, x: (x @ p["w"], jnp.einsum("bij,ijo->bo", x.reshape(4, 3, 2), p["w"].reshape(3, 2, 6))),
        "different ways"
    ),
    "custom_vjp": (lambda p, x: opaque(p["w"], x), "custom_vjp_call"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_else_reads_a_weight_leaves_it_dense_and_is_named(name: str) -> None:
    function, reader = REFUSED[name]
    params, x = {"w": normal(6, 6)}, normal(4, 6, seed=2)
    new, same = full(function, params, x)
    assert same == params or jnp.array_equal(same["w"], params["w"])
    (reason,) = lefts(new).values()
    assert any(word in reason for word in reader.split("|")), reason
    assert distance(function(params, x), new(same, x)) == 0


def test_a_packed_leaf_that_meets_something_else_at_another_shape_is_multiplied_out() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["w"] if len(x) < 5 else jnp.tanh(p["w"]).sum() + x @ jnp.concatenate([p["w"], p["w"]], 1)

    params = {"w": normal(12, 6)}
    new, factors = full(function, params, X)
    more = jnp.concatenate([X, X])
    assert distance(function(params, X), new(factors, X)) <= TOLERANCE
    assert distance(function(params, more), new(factors, more)) <= TOLERANCE


def test_tied_weights_are_factorized_once() -> None:
    params, x = {"w": normal(6, 5)}, normal(4, 6, seed=2)

    def function(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ p["w"]) @ p["w"].T

    new, factors = full(function, params, x)
    assert methods(new) == {"w": "svd"}
    assert distance(function(params, x), new(factors, x)) <= TOLERANCE
    assert new.report.rows[0].dense_macs == 2 * 4 * 30


def test_grouped_convolutions_and_single_rows_are_named() -> None:
    x = normal(2, 5, 5, 4)
    new, _ = full(conv((1, 1), "SAME", feature_group_count=2), {"w": normal(3, 3, 2, 6)}, x)
    assert lefts(new) == {"w": "a grouped convolution"}
    new, _ = full(lambda p, x: x @ p["w"], {"w": normal(12, 1)}, X)
    assert lefts(new) == {"w": "a matrix of one row or column"}
