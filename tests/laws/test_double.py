"""The law of double precision: float64 parameters come back as float64, and what changes nothing keeps every digit."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc

SHAPES = {"conv": (3, 3, 3, 8), "up": (8, 12), "b": (12,), "down": (12, 6), "c": (6,), "head": (6, 3)}
SHAPES |= dict.fromkeys(("mean", "scale", "bias"), (8,))


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        yield


def drawn() -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    params = {path: jnp.asarray(rng.normal(size=shape) / 3) for path, shape in SHAPES.items()}
    return params | {"var": jnp.asarray(1 + rng.random(8))}, jnp.asarray(rng.normal(size=(40, 4, 4, 3)))


def network(p: Any, x: Any) -> Any:
    mean, var, scale, bias = (p[name].reshape(1, 1, 1, -1) for name in ("mean", "var", "scale", "bias"))
    h = jax.lax.conv_general_dilated(x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jax.nn.relu((h - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias).mean((1, 2))
    h = jax.nn.relu(h @ p["up"] + p["b"][None])
    return jax.nn.relu(h @ p["down"] + p["c"][None]) @ p["head"]


def kept(p: Any, x: Any) -> tuple[Any, dict[str, Any]]:
    groups = jc.trace.groups(network, p, x)
    return groups, {group.name: np.ones(group.size, bool) for group in groups}


def sparsified(method: Any) -> Callable[[Any, Any], Any]:
    return lambda p, x: (network, jc.posttrain.sparsify(network, p, [x], 0.0, method=method).params)


def refitted(p: Any, x: Any) -> Any:
    groups, keep = kept(p, x)
    return network, jc.posttrain.refit(network, p, [x], groups, keep)


def corrected(method: Any) -> Callable[[Any, Any], Any]:
    return lambda p, x: (network, jc.posttrain.correct_biases(network, p, [x], p, method=method).params)


def factorized(p: Any, x: Any) -> Any:
    return jc.rewrite.factorize(network, p, x, rank=1.0, batches=[x], cheaper=False)


EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "fold_batch_norm": lambda p, x: jc.rewrite.fold_batch_norm(network, p, x),
    "fold_weights": lambda p, x: jc.rewrite.fold_weights(network, p, x),
    "shrink": lambda p, x: jc.rewrite.shrink(network, p, x, keep=kept(p, x)[1]),
    "remove_dead": lambda p, x: jc.rewrite.remove_dead(network, p, x),
    "factorize": factorized,
    "equalize": lambda p, x: (network, jc.posttrain.equalize(network, p, x).params),
    "smooth": lambda p, x: (network, jc.posttrain.smooth(network, p, [x]).params),
    "fast biases": corrected("fast"),
    "exact biases": corrected("exact"),
    "refit": refitted,
    **{method: sparsified(method) for method in ("magnitude", "wanda", "sparsegpt", "obc")},
}
DEAR = ("exact biases", "refit", "wanda", "sparsegpt", "smooth", "factorize")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive) if name in DEAR else name for name in EXACT]
)
def test_what_changes_nothing_keeps_every_digit(name: str) -> None:
    params, x = drawn()
    function, new = EXACT[name](params, x)[:2]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(new)} == {"float64"}
    before, after = network(params, x), function(new, x)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-13 * np.abs(before).max())


@pytest.mark.parametrize("method", ["magnitude", pytest.param("wanda", marks=pytest.mark.exhaustive)])
def test_weights_that_stay_are_not_rounded(method: Any) -> None:
    params, x = drawn()
    new, masks, _ = jc.posttrain.sparsify(network, params, [x], 0.5, method=method)
    for path in ("conv", "up", "down", "head"):
        np.testing.assert_array_equal(new[path], np.where(masks[path], params[path], 0))


@pytest.mark.parametrize("method", ["fast", pytest.param("exact", marks=pytest.mark.exhaustive)])
def test_means_are_corrected_to_every_digit(method: Any) -> None:
    layer = lambda p, x: x @ p["w"] + p["bias"][None]  # noqa: E731
    params, x = drawn()
    old = {"w": params["up"], "bias": params["b"]}
    rows = 1 + x.reshape(-1, 48)[:, :8]
    new = jc.posttrain.correct_biases(layer, old, [rows], old | {"w": jnp.round(old["w"])}, method=method).params
    assert (new["bias"] != old["bias"]).all()
    np.testing.assert_allclose(layer(new, rows).mean(0), layer(old, rows).mean(0), rtol=0, atol=1e-13)
