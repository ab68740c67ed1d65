"""Functions that mislead whoever follows shapes alone: what they compute decides, and a refusal says why."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.rewrite import mask, shrink
from jaxcomp.trace import groups
from tests.rewrite.parity import TOLERANCE, distance, randomize, worst

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
PARAMS = randomize({"a": jnp.ones((3, 8)), "b": jnp.ones(8), "c": jnp.ones((8, 2)), "scale": jnp.ones(8)})
HALF = np.arange(8) % 2 == 0


def names(function: Any, params: Any = PARAMS, *inputs: Any, lenient: bool = False) -> set[str]:
    return {group.name for group in groups(function, params, *(inputs or (X,)), lenient=lenient)}


def reason(function: Any, path: str, axis: int, params: Any = PARAMS) -> str:
    found = groups(function, params, X).frozen
    (hit,) = (g for g in found if any((m.path, m.axis) == (path, axis) for m in g.members))
    return str(hit.frozen)


def hidden(p: Any, x: jax.Array) -> jax.Array:
    return x @ p["a"] + p["b"]


@pytest.mark.parametrize(
    ("activation", "value"), [(jax.nn.softplus, "0.6931"), (jax.nn.sigmoid, "0.5"), (jnp.cos, "1"), (jnp.exp, "1")]
)
def test_what_is_not_0_at_0_needs_the_lenient_mask(activation: Any, value: str) -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return activation(hidden(p, x)) @ p["c"]

    assert names(function) == set()
    assert f"would be {value}, not 0" in reason(function, "a", 1)
    assert worst(function, PARAMS, X, lenient=True) <= TOLERANCE


def test_a_norm_without_epsilon_is_refused() -> None:
    def norm(p: Any, x: jax.Array, epsilon: float = 0.0) -> jax.Array:
        h = hidden(p, x)
        return (h / jnp.sqrt((h * h).sum(0) + epsilon)) @ p["c"]

    assert names(norm) == set() == names(norm, lenient=True)
    assert "infinite or no number" in reason(norm, "a", 1)
    assert worst(lambda p, x: norm(p, x, 1e-6), PARAMS, X) <= TOLERANCE


def test_layer_norm_by_two_passes_is_refused_and_by_one_is_not() -> None:
    def norm(p: Any, x: jax.Array, fast: bool) -> jax.Array:
        h = hidden(p, x)
        mean = h.mean(1, keepdims=True)
        var = (h * h).mean(1, keepdims=True) - mean**2 if fast else ((h - mean) ** 2).mean(1, keepdims=True)
        return ((h - mean) * jax.lax.rsqrt(var + 0.1) * p["scale"]) @ p["c"]

    assert names(lambda p, x: norm(p, x, False)) == set()
    assert "sums over them" in reason(lambda p, x: norm(p, x, False), "a", 1)
    assert worst(lambda p, x: norm(p, x, True), PARAMS, X) <= TOLERANCE


def test_weight_standardization_is_refused() -> None:
    def standard(w: jax.Array) -> jax.Array:
        return (w - w.mean(0)) * jax.lax.rsqrt(((w - w.mean(0)) ** 2).mean(0) + 1e-5)

    def function(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ standard(p["a"])) @ standard(p["c"])

    assert names(function) == set() == names(function, lenient=True)


def test_a_sum_over_what_reads_a_channel_needs_the_lenient_mask() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(hidden(p, x)) @ p["c"] + p["c"].sum()

    assert names(function) == set()
    assert worst(function, PARAMS, X, lenient=True) <= TOLERANCE


def test_tied_embeddings() -> None:
    params = randomize({"table": jnp.ones((11, 8)), "w": jnp.ones((8, 8))})
    tokens = jnp.array([[1, 5, 2], [0, 10, 3]])

    def function(p: Any, t: jax.Array) -> jax.Array:
        h = p["table"][t]
        return (h + jnp.tanh(h @ p["w"])) @ p["table"].T

    found = groups(function, params, tokens)
    assert {(m.path, m.axis) for m in found["table"].members} == {("table", 1), ("w", 0), ("w", 1)}
    assert worst(function, params, tokens) <= TOLERANCE


def test_fused_queries_keys_and_values_go_head_by_head_and_position_by_position() -> None:
    params = randomize({"qkv": jnp.ones((12, 36)), "out": jnp.ones((12, 12)), "head": jnp.ones((12, 2))})
    x = jnp.asarray(RNG.standard_normal((2, 5, 12)), jnp.float32)

    def function(p: Any, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(x @ p["qkv"], 3, axis=-1)
        q, k, v = (t.reshape(2, 5, 3, 4) for t in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return jnp.tanh(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, 12) @ p["out"]) @ p["head"]

    found = groups(function, params, x)
    assert {group.name: group.size for group in found} == {"qkv": 3, "out": 12, "qkv#2": 4, "qkv#3": 4}
    members = {group.name: {m.path: m.indices for m in group.members} for group in found}
    assert {path: own.shape for path, own in members["qkv"].items()} == {"qkv": (3, 12), "out": (3, 4)}
    assert members["qkv#2"]["qkv"].tolist() == [[24 + d, 28 + d, 32 + d] for d in range(4)]  # values
    assert members["qkv#2"]["out"].tolist() == [[d, 4 + d, 8 + d] for d in range(4)]
    assert members["qkv#3"]["qkv"].tolist() == [[4 * i + d for i in range(6)] for d in range(4)]  # queries with keys
    assert worst(function, params, x) <= TOLERANCE


def test_dropout_draws_what_it_drew() -> None:
    def function(p: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        h = hidden(p, x)
        return jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h / 0.5, 0) @ p["c"]

    assert worst(function, PARAMS, X, jax.random.key(1)) <= TOLERANCE


def test_closed_over_constants_are_cut_with_what_they_meet() -> None:
    constant = jnp.asarray(RNG.standard_normal((4, 8)), jnp.float32)
    assert worst(lambda p, x: (hidden(p, x) * constant) @ p["c"], PARAMS, X) <= TOLERANCE
    assert names(lambda p, x: (hidden(p, x) + constant) @ p["c"]) == set()


def test_unused_parameters_are_no_group_and_stay() -> None:
    params = {**PARAMS, "unused": jnp.ones((3, 8)), "count": jnp.array(3), "key": jax.random.key(0)}

    def function(p: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(hidden(p, x)) @ p["c"]

    assert names(function, params) == {"a"}
    _, small = shrink(function, params, X, keep={"a": HALF})
    assert small["unused"] is params["unused"]
    assert (small["a"].shape, small["count"]) == ((3, 4), 3)


def test_one_channel_left_is_not_broadcast() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return (hidden(p, x) * jnp.arange(8.0)) @ p["c"]

    keep = {"a": np.arange(8) == 5}
    new, small = shrink(function, PARAMS, X, keep=keep)
    masked = mask(groups(function, PARAMS, X), PARAMS, keep)
    assert small["a"].shape == (3, 1)
    assert distance(function(masked, X), new(small, X)) <= TOLERANCE


def test_a_channel_that_meets_the_inputs_stays() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = hidden(p, x) + jnp.concatenate([x, jnp.zeros((4, 5))], axis=1)
        return h @ p["c"]

    found = groups(function, PARAMS, X)
    assert [group.size for group in found] == [5]
    assert worst(function, PARAMS, X) <= TOLERANCE


def test_one_layer_called_twice_is_one_group() -> None:
    params = randomize({"a": jnp.ones((3, 8)), "w": jnp.ones((8, 8)), "c": jnp.ones((8, 2))})
    layer = jax.jit(lambda w, h: jnp.tanh(h @ w))

    def function(p: Any, x: jax.Array) -> jax.Array:
        return layer(p["w"], layer(p["w"], x @ p["a"])) @ p["c"]

    assert {(m.path, m.axis) for m in groups(function, params, X)["a"].members} == {
        ("a", 1),
        ("w", 0),
        ("w", 1),
        ("c", 0),
    }
    assert worst(function, params, X) <= TOLERANCE


def test_one_jitted_function_at_two_calls_is_two() -> None:
    params = randomize({"a": jnp.ones((3, 8)), "b": jnp.ones((8, 8)), "c": jnp.ones((8, 2))})
    layer = jax.jit(lambda w, h: jax.nn.relu(h @ w))

    def function(p: Any, x: jax.Array) -> jax.Array:
        return layer(p["b"], layer(p["a"], x)) @ p["c"]

    assert names(function, params) == {"a", "b"}
    assert worst(function, params, X) <= TOLERANCE


def test_a_product_of_parameters_is_followed() -> None:
    params = randomize({"u": jnp.ones((3, 4)), "v": jnp.ones((4, 8)), "c": jnp.ones((8, 2))})
    found = groups(lambda p, x: jnp.tanh(x @ (p["u"] @ p["v"])) @ p["c"], params, X)
    assert {group.name: group.size for group in found} == {"u": 4, "v": 8}
    assert worst(lambda p, x: jnp.tanh(x @ (p["u"] @ p["v"])) @ p["c"], params, X) <= TOLERANCE


def test_a_second_derivative_agrees() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.silu(hidden(p, x)) @ p["c"]

    keep = {"a": HALF}
    new, small = shrink(function, PARAMS, X, keep=keep)
    masked = mask(groups(function, PARAMS, X), PARAMS, keep)

    def curvature(f: Any, p: Any) -> Any:
        return jax.grad(lambda x: jax.grad(lambda y: (f(p, y) ** 2).sum())(x).sum())(X)

    assert distance(curvature(function, masked), curvature(new, small)) <= TOLERANCE
