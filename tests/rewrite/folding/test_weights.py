"""Weights that a function computes become parameters: the same function, and one that every rewrite takes hold of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from jaxcomp.posttrain import ptq
from jaxcomp.rewrite import Scheme, fold_batch_norm, fold_weights, quantize
from jaxcomp.trace import groups
from tests.rewrite.folding.test_batch_norm import norm, with_norm
from tests.rewrite.lowrank.test_factors import conv, normal
from tests.rewrite.parity import distance, quick, randomize

IMAGE = normal(2, 6, 5, 4, seed=0)
X = normal(4, 6, seed=0)


def standardized(w: jax.Array) -> jax.Array:
    axes = tuple(range(w.ndim - 1))
    return (w - w.mean(axes, keepdims=True)) * lax.rsqrt(w.var(axes, keepdims=True) + 1e-4)


class Case(NamedTuple):
    """A function, its parameters, its input, and the shapes of the parameters that are left."""

    function: Callable[..., Any]
    params: Any
    x: jax.Array
    left: dict[str, tuple[int, ...]]


def of(**shapes: tuple[int, ...]) -> Any:
    return randomize({name: jnp.ones(shape) for name, shape in shapes.items()})


def block(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ (standardized(p["w"]) * p["gain"]) + p["bias"])


def stacked(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(lambda h, own: (h + block(own, h), h.sum()), x, p)[0]


def recurrent(p: Any, x: jax.Array) -> jax.Array:
    """The weight is computed inside the loop, of what is the same in every step."""
    step = lambda h, _: (jnp.tanh(h @ jnp.concatenate([p["a"], p["b"]], 1)), None)  # noqa: E731
    return lax.scan(step, x, None, length=3)[0]


def handed_in(p: Any, x: jax.Array) -> jax.Array:
    """The weights are computed before the loop, a stack of them and one for all."""
    stack, one = jax.vmap(standardized)(p["w"]), jnp.tanh(p["one"])
    return lax.scan(lambda h, own: (jnp.tanh(h @ own + h @ one), None), x, stack)[0]


CASES = {
    "standardized": Case(
        lambda p, x: conv((1, 1), "SAME")({"w": standardized(p["w"]) * p["gain"]}, x) + p["bias"],
        of(w=(3, 3, 4, 5), gain=(5,), bias=(5,)), IMAGE, {"w": (3, 3, 4, 5), "bias": (5,)},
    ),
    "an adapter": Case(
        lambda p, x: x @ (p["w"] + 0.5 * p["a"] @ p["b"]), of(w=(6, 5), a=(6, 2), b=(2, 5)), X, {"w": (6, 5)}
    ),
    "an adapter as large": Case(
        lambda p, x: x @ (p["w"] + p["a"] @ p["w"]), of(w=(6, 5), a=(6, 6)), X, {"w": (6, 5)}
    ),
    "concatenated": Case(
        lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1), of(a=(6, 5), b=(6, 7)), X, {"b": (6, 12)}
    ),
    "masked and cast": Case(
        lambda p, x: x.astype(jnp.bfloat16) @ (p["w"] * p["mask"]).astype(jnp.bfloat16).T,
        {"w": normal(5, 6), "mask": jnp.asarray(np.random.default_rng(0).integers(2, size=(5, 6)), jnp.int32)},
        X, {"w": (5, 6)},
    ),
    "read by two": Case(
        lambda p, x: (x @ (t := jnp.tanh(p["w"]))) @ t.T, of(w=(6, 5)), X, {"w": (6, 5)}
    ),
    "in remat": Case(
        lambda p, x: jax.checkpoint(block)(p, x), of(w=(6, 5), gain=(5,), bias=(5,)), X, {"w": (6, 5), "bias": (5,)}
    ),
    "stacked in a scan": Case(
        stacked, of(w=(3, 6, 6), gain=(3, 6), bias=(3, 6)), X, {"w": (3, 6, 6), "bias": (3, 6)}
    ),
    "the same in every step": Case(recurrent, of(a=(6, 2), b=(6, 4)), X, {"b": (6, 6)}),
    "handed into a scan": Case(handed_in, of(w=(3, 6, 6), one=(6, 6)), X, {"w": (3, 6, 6), "one": (6, 6)}),
    "a reciprocal": Case(lambda p, x: x @ (2 / p["w"]), of(w=(6, 5)), X, {"w": (6, 5)}),
    "scaled by a number of the tree": Case(lambda p, x: x @ (p["w"] / p["s"]), of(w=(6, 5), s=()), X, {"w": (6, 5)}),
    "some of it a parameter": Case(
        lambda p, x: (x @ p["v"]) @ jnp.tanh(p["w"]), of(v=(6, 6), w=(6, 5)), X, {"v": (6, 6), "w": (6, 5)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_function_stays_and_every_weight_is_a_parameter(name: str) -> None:
    case = CASES[name]
    new, folded = fold_weights(case.function, case.params, case.x)
    assert {path: leaf.shape for path, leaf in named_leaves(folded).items()} == case.left
    for x in (case.x, jnp.concatenate([case.x, case.x + 1])):
        assert distance(quick(case.function)(case.params, x), quick(new)(folded, x)) <= 2e-6
    assert {row.path for row in new.report.rows if row.skipped} == set()
    assert not any(row.skipped for row in quantize(new, folded, case.x, scheme=Scheme(inputs=None))[0].report.rows)
    shapes = jax.eval_shape(lambda: case.params)
    assert jax.eval_shape(lambda: folded) == fold_weights(case.function, shapes, case.x)[1]
    again, same = fold_weights(new, folded, case.x)
    assert again.report.rows == ()
    assert jax.tree.all(jax.tree.map(np.array_equal, same, folded))


def reported(p: Any, x: jax.Array) -> jax.Array:
    """What is told on the way is no part of any weight."""
    jax.debug.callback(lambda _: None, x.sum())
    return x @ p["w"]


def kept_in_a_reference(p: Any, x: jax.Array) -> jax.Array:
    """A mutable array begins without inputs, and holds what is written to it."""
    sums = jax.new_ref(jnp.zeros((len(x), 5)))

    def step(carry: Any, row: jax.Array) -> tuple[Any, None]:
        sums[...] += row @ p["w"]
        return carry, None

    lax.scan(step, 0, jnp.stack([x, -2 * x]))
    return jnp.tanh(sums[...]) @ p["w"].T


LEFT: dict[str, tuple[Callable[..., Any], str]] = {
    "beside a callback": (reported, ""),
    "in a mutable array": (kept_in_a_reference, ""),
    "a result": (lambda p, x: (x @ jnp.tanh(p["w"]), p["w"].sum()), "becomes free"),
    "needed elsewhere": (lambda p, x: (x @ jnp.tanh(p["w"])) @ p["w"].T, "becomes free"),
    "moved, cast and scaled": (lambda p, x: 3 * x @ -(p["w"] / 2).astype(jnp.float16).astype(jnp.float32), ""),
    "a part of it": (lambda p, x: (x @ p["w"][:, :3], x @ p["w"][:, 3:]), "becomes free"),
    "computed of inputs": (lambda p, x: x @ (p["w"] * x.mean()), ""),
    "carried": (lambda p, x: lax.fori_loop(0, 3, lambda i, w: jnp.tanh(x.T @ (x @ w)), p["w"]), ""),
    "another for each batch": (lambda p, x: x @ jnp.tanh(p["w"] / len(x)), "sizes of the inputs"),
    "for batches of four": (lambda p, x: x @ (jnp.tanh if len(x) > 2 else jnp.sin)(p["w"]), "sizes of the inputs"),
    "larger": (lambda p, x: x @ jnp.outer(p["w"][:, 0], jnp.tanh(jnp.tile(p["w"][0], 8))), "is larger than"),
    "in a branch": (lambda p, x: lax.cond(x.sum() > 0, lambda: x @ jnp.tanh(p["w"]), lambda: x[:, :5]), ""),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_stays_computed_is_right(name: str) -> None:
    function, reason = LEFT[name]
    params = of(w=(6, 5))
    new, same = fold_weights(function, params, X)
    assert [row.skipped for row in new.report.rows if row.skipped] == ([new.report.rows[0].skipped] if reason else [])
    assert reason in "".join(row.skipped for row in new.report.rows)
    np.testing.assert_array_equal(same["w"], params["w"])
    assert distance(function(params, X), new(same, X)) <= 1e-6


def test_weights_that_change_with_the_shape_are_refused() -> None:
    params = of(w=(6, 5), v=(5, 5))
    scaled = lambda p, x: x @ (jnp.tanh(p["w"]) / len(x))  # noqa: E731
    new, folded = fold_weights(scaled, params, X)
    assert distance(scaled(params, X[:2]), new(folded, X[:2])) <= 1e-6  # by a number, which stays where it is
    many = jnp.stack([X, X, X])
    new, folded = fold_weights(lambda p, x: x @ jnp.tanh(p["w"] / x.shape[1]), params, many)
    with pytest.raises(ArgumentError, match=r"other scales and shifts, or weights, .* call fold_weights"):
        new(folded, many[:, :2])
    with pytest.raises(ArgumentError, match="the function that fold_weights returned needs the parameters"):
        new({**folded, "w": folded["w"][1:]}, X)


def test_containers_of_any_kind() -> None:
    new, folded = fold_weights(lambda p, x: x @ (p[0] * p[1]), [normal(6, 5), normal(5)], X)
    assert folded[1] is None
    assert distance(X @ folded[0], new(folded, X)) <= 1e-6


class Normalized(nn.Module):
    """Weight norm, spectral norm and a standardized convolution under a batch norm, from Flax and by hand."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        standard = self.param("standard", nn.initializers.he_normal(), (3, 3, 4, 8))
        x = conv((1, 1), "SAME")({"w": standardized(standard)}, x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.relu(nn.WeightNorm(nn.Conv(6, (3, 3)))(x)).mean((1, 2))
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=False)


@functools.cache
def normalized() -> tuple[Any, Any]:
    return Normalized().apply, randomize(jax.eval_shape(Normalized().init, jax.random.key(0), IMAGE))


def test_layers_of_flax() -> None:
    function, params = normalized()
    new, folded = fold_weights(function, params, IMAGE)
    assert sorted(row.path.split("/")[-1] for row in new.report.rows) == ["kernel", "kernel", "standard"]
    assert distance(quick(function)(params, IMAGE), quick(new)(folded, IMAGE)) <= 1e-6
    assert len(groups(function, params, IMAGE)) < len(groups(new, folded, IMAGE)) == 2
    both, smaller = fold_batch_norm(new, folded, IMAGE)
    assert "batch_stats" not in smaller or "BatchNorm_0" not in smaller["batch_stats"]
    assert distance(quick(function)(params, IMAGE), quick(both)(smaller, IMAGE)) <= 1e-5


@pytest.mark.exhaustive
def test_ptq_takes_hold_of_them() -> None:
    function, params = normalized()
    new = ptq(function, params, [IMAGE])
    assert not any(row.skipped for row in new.report.quantized.rows)
    assert new.report.computed is not None
    assert "standard" in str(new.report)
    assert distance(quick(function)(params, IMAGE), quick(new.apply_fn)(new.params, IMAGE)) <= 0.05


def test_a_norm_of_a_computed_weight_folds_after_it() -> None:
    params = with_norm((6, 5), 5, gain=(5,))
    function = lambda p, x: norm(p, x @ (standardized(p["w"]) * p["gain"]))  # noqa: E731
    new, folded = fold_batch_norm(*fold_weights(function, params, X), X)
    assert set(folded) == {"w", "bias"}
    assert distance(function(params, X), new(folded, X)) <= 2e-6


def test_pruned_weights_stay_pruned() -> None:
    params = {"w": normal(6, 5), "mask": (normal(6, 5) > 0).astype(jnp.int32)}
    _, folded = fold_weights(lambda p, x: x @ (p["w"] * p["mask"]), params, X)
    assert np.array_equal(np.asarray(folded["w"]) != 0, np.asarray(params["mask"]) != 0)


IMAGES = normal(6, 8, 4, seed=2)
PLACES = np.arange(8)[:, None] - np.arange(8) + 7
FOR_A_BATCH: dict[str, tuple[Callable[..., Any], Any, bool]] = {
    # a function, its parameters, and whether a weight is folded
    "queries tiled": (
        lambda p, x: jnp.einsum("bqd,bnd->bqn", jnp.tile(p["query"], (len(x), 1, 1)) @ p["w"], x),
        of(query=(1, 3, 4), w=(4, 4)), True,
    ),
    "one probe broadcast": (
        lambda p, x: jnp.einsum("bd,bnd->bn", jnp.broadcast_to(jnp.tanh(p["probe"]), (len(x), 4)), x),
        of(probe=(4,)), True,
    ),
    "tokens repeated": (
        lambda p, x: jnp.einsum("bd,bnd->bn", jnp.repeat(p["token"], len(x), 0) @ p["w"] + p["bias"], x),
        of(token=(1, 4), w=(4, 4), bias=(4,)), True,
    ),
    "a row for each example": (
        lambda p, x: jnp.einsum("bd,bnd->bn", p["table"][jnp.arange(len(x)) % 3] @ p["w"], x),
        of(table=(3, 4), w=(4, 4)), False,
    ),
    "queries merged with the batch": (
        lambda p, x: (jnp.tile(p["query"], (len(x), 1)) @ p["w"]).reshape(len(x), -1, 4) @ x.swapaxes(1, 2),
        of(query=(3, 4), w=(4, 4)), False,
    ),
    "so many places": (
        lambda p, x: jnp.einsum("nd,bnd->bn", p["places"][: x.shape[1]] @ p["w"], x),
        of(places=(16, 4), w=(4, 4)), False,
    ),
    "the last places": (
        lambda p, x: jnp.einsum("d,bnd->bn", jnp.tanh(p["places"][x.shape[1] - 1]) @ p["w"], x),
        of(places=(16, 4), w=(4, 4)), False,
    ),
    "relative places": (
        lambda p, x: jnp.einsum("bnd,nmd->bnm", x, (p["table"] @ p["w"])[PLACES]), of(table=(15, 4), w=(4, 4)), False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOR_A_BATCH)
def test_no_weight_is_made_for_one_batch(name: str) -> None:
    function, params, folds = FOR_A_BATCH[name]
    new, folded = fold_weights(function, params, IMAGES)
    assert any(not row.skipped for row in new.report.rows) == folds
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, folded)]
    assert sizes[1] <= sizes[0]
    for x in (IMAGES, IMAGES[:1], jnp.concatenate([IMAGES, IMAGES]), IMAGES[:, :5]):
        if x.shape[1] == 8 or "relative" not in name:
            assert distance(function(params, x), new(folded, x)) <= 1e-5
    one, same = fold_weights(function, params, IMAGES[:1])
    assert distance(function(params, IMAGES), one(same, IMAGES)) <= 1e-5
