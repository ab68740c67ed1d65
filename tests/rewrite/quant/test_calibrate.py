"""Ranges of what sites read are those that NumPy finds in the same stream; what no data reach is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp import pack
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.quant import entropy, mse, percentile
from jaxcomp.rewrite import Scheme, calibrate
from tests.rewrite.lowrank.test_factors import normal

RNG = np.random.default_rng(5)
W = np.asarray(RNG.standard_normal((3, 6, 6)) / 2, np.float32)
BATCHES = [jnp.asarray(RNG.standard_normal((4, 6)) * (i + 1), jnp.float32) for i in range(4)]


def scanned(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(lambda h, w: (jnp.tanh(h @ w) * 3, None), x, p["w"])[0]


def inputs_of_scanned(x: Any) -> list[np.ndarray]:
    """What each layer of it reads, in float64."""
    seen = []
    for w in W.astype(np.float64):
        seen.append(np.asarray(x, np.float64))
        x = np.tanh(seen[-1] @ w) * 3
    return seen


def grid(low: Any, high: Any, bits: int = 8) -> tuple[Any, Any]:
    """Scale and zero point of an affine grid through 0, by the formula."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / (2**bits - 1)
    return scale, np.round(-low / scale) - 2 ** (bits - 1)


def test_layers_of_a_scan_have_the_ranges_of_their_own_inputs() -> None:
    found = calibrate(scanned, {"w": W}, BATCHES)["w"]
    layers = zip(*(inputs_of_scanned(x) for x in BATCHES), strict=True)
    ends = [(min(x.min() for x in own), max(x.max() for x in own)) for own in layers]
    scale, zero_point = grid(*np.transpose(ends))
    np.testing.assert_allclose(found.scale, scale, rtol=1e-5)
    np.testing.assert_array_equal(found.zero_point, zero_point)


def test_ranges_do_not_depend_on_how_batches_are_cut_or_ordered() -> None:
    whole = jnp.concatenate(BATCHES)
    for fit in (None, percentile(0.99), mse(), entropy()):
        one = calibrate(scanned, {"w": W}, [whole], fit=fit)["w"]
        other = calibrate(scanned, {"w": W}, BATCHES[::-1], fit=fit)["w"]
        np.testing.assert_allclose(one.scale, other.scale, rtol=1e-5)


def test_moving_average_and_percentile_are_those_of_numpy() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["w"]

    params = {"w": W[0]}
    low, high = BATCHES[0].min(), BATCHES[0].max()
    for x in BATCHES[1:]:
        low, high = 0.8 * low + 0.2 * x.min(), 0.8 * high + 0.2 * x.max()
    average = calibrate(function, params, BATCHES, momentum=0.8)["w"]
    np.testing.assert_allclose(average.scale, grid(low, high)[0], rtol=1e-5)
    batches = [normal(2000, 6, seed=i) for i in range(2)]
    found = calibrate(function, params, batches, fit=percentile(0.99))["w"]
    ends = np.quantile(np.concatenate(batches), (0.01, 0.99))
    np.testing.assert_allclose(found.scale, grid(*ends)[0], rtol=0.01)
    assert np.abs(found.zero_point - grid(*ends)[1]) <= 1


def test_every_run_of_loops_and_branches_counts() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["loop"]) * (i + 1), x)
        return lax.cond(h[0, 0] > 0, lambda h: (2 * h) @ p["a"], lambda h: (3 * h) @ p["a"], h)

    params = {"loop": W[0], "a": W[1]}
    x = np.asarray(BATCHES[0], np.float64)
    seen = []
    for i in range(3):
        seen.append(x)
        x = np.tanh(x @ W[0].astype(np.float64)) * (i + 1)
    found = calibrate(function, params, BATCHES[:1])
    low, high = min(s.min() for s in seen), max(s.max() for s in seen)
    np.testing.assert_allclose(found["loop"].scale, grid(low, high)[0], rtol=1e-5)
    x = x * (2 if x[0, 0] > 0 else 3)
    np.testing.assert_allclose(found["a"].scale, grid(x.min(), x.max())[0], rtol=1e-5)


def test_one_tensor_and_one_weight_have_one_range() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = jnp.tanh(x)
        sides = h @ p["a"], h.reshape(2, 2, 6) @ p["b"]
        return sides[0] @ p["c"] + (5 * sides[1]).reshape(4, 6) @ p["c"] + jnp.exp(x) @ p["d"]

    params = dict(zip("abcd", (*W, W[0]), strict=True))
    found = calibrate(function, params, BATCHES[:1])
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, found["a"], found["b"]))
    x = np.tanh(np.asarray(BATCHES[0], np.float64))
    read = np.stack([x @ W[0], 5 * (x @ W[1])])
    np.testing.assert_allclose(found["c"].scale, grid(read.min(), read.max())[0], rtol=1e-5)
    assert found["d"].zero_point == -128
    only = calibrate(function, params, BATCHES[:1], [("a", Scheme(inputs="dynamic")), ("d", None), (".*", Scheme(4))])
    assert set(only) == {"b", "c"}


def test_what_cannot_be_calibrated() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x) @ p["a"]

    params = {"a": W[0]}
    assert "are 0 on the data" in calibrate(function, params, [-jnp.ones((2, 6))]).skipped["a"]
    with pytest.raises(ArgumentError, match="the inputs of 'a' are not finite"):
        calibrate(function, params, [jnp.full((2, 6), jnp.nan)])
    with pytest.raises(ArgumentError, match="gave no batch"):
        calibrate(function, params, [])
    with pytest.raises(ArgumentError, match=r"momentum must be in \[0, 1\) and stand in place of fit; got 1.5"):
        calibrate(function, params, BATCHES, momentum=1.5)
    with pytest.raises(ArgumentError, match="at least 2 bins, got 1"):
        calibrate(function, params, BATCHES, fit=mse(), bins=1)
    with pytest.raises(RuleError, match="matches no parameter"):
        calibrate(function, params, BATCHES, [("b", Scheme())])


def test_ranges_are_a_tree_like_any_other(tmp_path: Any) -> None:
    p = {"dead": jnp.ones((2, 2)), "w": jnp.eye(2)}
    found = calibrate(lambda p, x: x @ p["w"] + (0 * x) @ p["dead"], p, [jnp.ones((3, 2))])
    assert (list(found), list(found.skipped)) == (["w"], ["dead"])
    again = jax.tree.map(jnp.asarray, found)
    assert (again.keys(), again.skipped) == (found.keys(), found.skipped)
    assert [path for path, _ in jax.tree_util.tree_flatten_with_path(found)[0]] == [
        path for path, _ in jax.tree_util.tree_flatten_with_path(dict(found))[0]
    ]
    pack.save(tmp_path / "ranges.jcz", found)
    assert float(pack.load(tmp_path / "ranges.jcz")[0]["w"]["scale"].item()) == float(found["w"].scale.item())


def test_a_second_calibration_of_a_function_compiles_nothing() -> None:
    found, programs = [], []

    def listen(event: str, *_: Any, **__: Any) -> None:
        programs[-1:] = [programs[-1] + event.endswith("backend_compile_duration")]

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(2):  # a function that was not seen before, of the same shapes
            programs.append(0)
            found.append(calibrate(lambda p, x: jnp.tanh(x @ p["w"][1]) @ p["w"][0], {"w": W[:2]}, BATCHES, fit=mse()))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert programs[0] > programs[1] == 0
    jax.tree.map(np.testing.assert_array_equal, *found)
