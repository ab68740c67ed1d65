"""Equalized and smoothed networks compute what they did; ranges become alike; what cannot be scaled is named."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp import posttrain
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.paths import named_leaves
from tests.rewrite.lowrank.test_factors import conv, normal
from tests.rewrite.parity import distance

IMAGE = normal(2, 8, 8, 3)

equalize, smooth = (functools.partial(call, scheme=None) for call in (posttrain.equalize, posttrain.smooth))


def mobile(p: Any, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(conv((1, 1), "SAME")({"w": p["first"]}, x) + p["b1"])
    x = jax.nn.leaky_relu(conv((1, 1), "SAME", feature_group_count=6)({"w": p["depthwise"]}, x) + p["b2"])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    x = jax.nn.relu(conv((1, 1), "SAME", feature_group_count=2)({"w": p["grouped"]}, x) + p["b3"])
    return x.reshape(len(x), -1) @ p["head"] + p["b4"]


def network() -> dict[str, jax.Array]:
    shapes = {"first": (3, 3, 3, 6), "depthwise": (3, 3, 1, 6), "grouped": (3, 3, 3, 4), "head": (64, 5)}
    params = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params |= {f"b{i + 1}": normal(shape[-1], seed=i) for i, shape in enumerate(shapes.values())}
    return params | {"first": params["first"] * jnp.geomspace(0.01, 10, 6)}


def reach(w: Any, axis: int) -> np.ndarray:
    return np.abs(np.moveaxis(np.asarray(w), axis, -1)).reshape(-1, np.shape(w)[axis]).max(0)


def test_the_function_stays_and_ranges_are_alike_on_both_sides() -> None:
    params = network()
    new = equalize(mobile, params, IMAGE)
    assert distance(mobile(params, IMAGE), mobile(new.params, IMAGE)) <= 1e-5
    rows = {row.path: row for row in new.report.rows}
    for name, reader in zip(("first", "depthwise", "grouped"), ("depthwise", "grouped", "head"), strict=True):
        assert (rows[name].readers, rows[name].skipped) == ((reader,), "")
    assert rows["head"].skipped == "it is the function's result"
    made, read = reach(new.params["first"], 3), reach(new.params["depthwise"], 3)
    np.testing.assert_allclose(made, read, rtol=1e-2)
    made, read = reach(new.params["grouped"], 3), reach(new.params["head"].reshape(16, 4, 5), 1)
    np.testing.assert_allclose(made, read, rtol=1e-2)
    before, after = reach(params["first"], 3), reach(new.params["first"], 3)
    assert after.max() / after.min() < before.max() / before.min()


def test_only_what_is_homogeneous_and_read_by_sites_alone_is_scaled() -> None:
    def function(p: Any, x: jax.Array) -> Any:
        gelu = jax.nn.gelu(x @ p["gelu"]) @ p["a"]
        six = jnp.clip(x @ p["six"], 0, 6) @ p["b"]
        h = x @ p["added"]
        rest = (h + x) @ p["c"]
        twice = jax.nn.relu(x @ p["twice"])
        fine = twice @ p["d"] + jnp.abs(twice) @ p["e"]
        squared = x @ p["squared"]
        return gelu + six + rest + fine + (squared * squared) @ p["f"]

    names = ["gelu", "six", "added", "twice", "squared", *"abcdef"]
    params = {name: normal(4, 4, seed=i) for i, name in enumerate(names)}
    new = equalize(function, params, normal(3, 4))
    assert distance(function(params, normal(3, 4)), function(new.params, normal(3, 4))) <= 1e-5
    rows = {row.path: row for row in new.report.rows}
    assert rows["twice"].readers == ("d", "e")
    assert all("not homogeneous" in rows[name].skipped for name in ("gelu", "six", "added", "squared"))
    old, now = named_leaves(params), named_leaves(new.params)
    assert {path for path in old if now[path] is not old[path]} == {"twice", "d", "e"}


def norm_block(p: Any, x: jax.Array) -> jax.Array:
    x = (x - x.mean(-1, keepdims=True)) * (lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"]) + p["shift"]
    return jax.nn.gelu(x @ p["q"]) + x @ p["k"]


def test_smoothing_into_the_readers_of_a_norm_is_the_paper_s_formula() -> None:
    params = {"scale": jnp.array([1.0, 0.1, 20.0, 3.0]), "shift": normal(4)}
    params |= {"q": normal(4, 6), "k": normal(4, 6, seed=2)}
    x = normal(2, 5, 4)
    new = smooth(norm_block, params, [x[:1], x[1:]], strength=0.75)
    assert distance(norm_block(params, x), norm_block(new.params, x)) <= 1e-5
    seen = np.asarray((x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6), np.float64)
    seen = np.abs(seen * params["scale"] + params["shift"]).max((0, 1))
    weights = np.maximum(reach(params["q"], 0), reach(params["k"], 0))
    by = seen**0.75 / weights**0.25
    np.testing.assert_allclose(new.params["scale"], params["scale"] / by, rtol=1e-4)
    np.testing.assert_allclose(new.params["shift"], params["shift"] / by, rtol=1e-4)
    np.testing.assert_allclose(new.params["q"], params["q"] * by[:, None], rtol=1e-4)
    (row,) = (row for row in new.report.rows if not row.skipped)
    assert (row.path, row.readers) == ("scale", ("q", "k"))


def test_channels_that_are_never_made_or_read_stay() -> None:
    params = {"up": jnp.array([[1.0, 0.0, 4.0]]), "down": jnp.array([[0.0], [2.0], [1.0]])}
    new = equalize(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params, jnp.ones((1, 1)))
    np.testing.assert_array_equal(new.params["up"], [[1.0, 0.0, 2.0]])
    np.testing.assert_array_equal(new.params["down"], [[0.0], [2.0], [2.0]])


def test_complex_values_on_the_way_are_looked_at_whole() -> None:
    params, x = {"up": normal(4, 8), "down": normal(8, 2)}, normal(3, 4)

    def fn(p: Any, x: Any) -> Any:
        return jnp.abs(lax.complex(jax.nn.relu(x @ p["up"]), jnp.ones((3, 8)))) @ p["down"]

    new = posttrain.equalize(fn, params, x, scheme=None).params
    np.testing.assert_array_equal(fn(new, x), fn(params, x))


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="rounds must be a whole number of at least 1"):
        equalize(mobile, network(), IMAGE, rounds=0)
    with pytest.raises(ArgumentError, match="strength must be in"):
        smooth(mobile, network(), [IMAGE], strength=2)
    with pytest.raises(ArgumentError, match="gave no batch"):
        smooth(mobile, network(), [])
