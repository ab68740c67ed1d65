"""Rewritten functions exported for any batch, as the originals can be: one program for two batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxcomp.rewrite import Scheme, choose, factorize, fold_batch_norm, fold_weights, quantize, shrink
from jaxcomp.trace import groups
from jaxcomp.trace.channels.emitter import pick_alike
from jaxcomp.trace.symbols import SCALES, Numbers

Function = Callable[[Any, jax.Array], jax.Array]


def _weights(**sizes: tuple[int, ...]) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(sizes))
    return {name: jax.random.normal(key, size) / 3 for key, (name, size) in zip(keys, sizes.items(), strict=True)}


def transformer(p: Any, images: jax.Array) -> jax.Array:
    """A token beside the patches, windows and heads that are merged with the batch, rotary halves, tiled queries."""
    batch, heads = images.shape[0], 2
    x = images.reshape(batch, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 3) @ p["embed"]  # windows
    q, k, v = (_heads(x @ p[name], heads) for name in ("q", "k", "v"))
    q, k = _rotated(q), _rotated(k)
    mixed = jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v
    mixed = mixed.reshape(-1, heads, 4, mixed.shape[-1]).swapaxes(1, 2).reshape(-1, 4, p["out"].shape[0])
    x = (x + mixed @ p["out"]).reshape(batch, 16, -1)
    x = jnp.concatenate([jnp.tile(p["token"], (batch, 1, 1)), x], axis=1) + p["places"]
    queries = jnp.broadcast_to(p["query"], (batch, 2, p["query"].shape[1])) @ p["ask"]
    pooled = jnp.einsum("bqn,bnd->bqd", jax.nn.softmax(queries @ x.swapaxes(1, 2)), x)
    return (pooled + jax.nn.gelu(pooled @ p["up"]) @ p["down"]) @ p["head"]


def _heads(x: jax.Array, heads: int) -> jax.Array:
    rows, places, width = x.shape
    return x.reshape(rows, places, heads, -1).transpose(0, 2, 1, 3).reshape(rows * heads, places, width // heads)


def _rotated(x: jax.Array) -> jax.Array:
    a, b = jnp.split(x, 2, axis=-1)
    turn = jnp.arange(x.shape[1], dtype=x.dtype)[:, None]
    return jnp.concatenate([a * jnp.cos(turn) - b * jnp.sin(turn), b * jnp.cos(turn) + a * jnp.sin(turn)], axis=-1)


def convolutions(p: Any, x: jax.Array) -> jax.Array:
    """Strides, a pool, a depthwise convolution and a mean, of images of any size."""
    x = jax.nn.relu(_conv(x, p["first"], 2) + p["bias"])
    x = jax.nn.relu(_conv(x, p["depthwise"], 1, groups=8) * p["scale"] + p["shift"])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return (x + jax.nn.relu(x @ p["wide"]) @ p["narrow"]).mean((1, 2)) @ p["head"]


def _conv(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=groups)


def recurrent(p: Any, x: jax.Array) -> jax.Array:
    """A scan over rows of any number."""

    def step(h: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        return h + jnp.tanh(row @ p["in"]) @ p["out"], h.sum()

    h, sums = lax.scan(step, jnp.zeros((x.shape[0], p["out"].shape[1])), x.swapaxes(0, 1))
    return h @ p["head"] + sums.sum()


NETWORKS: dict[str, tuple[Function, Any, tuple[int, ...], str]] = {
    "transformer": (
        transformer,
        _weights(
            embed=(3, 8), q=(8, 16), k=(8, 16), v=(8, 16), out=(16, 8), token=(1, 1, 8), places=(17, 8), query=(2, 8),
            ask=(8, 8), up=(8, 16), down=(16, 8), head=(8, 3),
        ),
        (4, 4, 3),
        "batch, 4, 4, 3",
    ),
    "convolutions": (
        convolutions,
        _weights(
            first=(3, 3, 3, 8), bias=(8,), depthwise=(3, 3, 1, 8), scale=(8,), shift=(8,), wide=(8, 16), narrow=(16, 8),
            head=(8, 3),
        ),
        (8, 8, 3),
        "batch, 4*rows, columns, 3",
    ),
    "recurrent": (
        recurrent, _weights(**{"in": (5, 8), "out": (8, 6), "head": (6, 2)}), (4, 5), "batch, rows, 5"
    ),
}  # fmt: skip

REWRITES: dict[str, Callable[[Function, Any, jax.Array], tuple[Any, Any]]] = {
    "shrink": lambda f, p, x: shrink(f, p, x, keep=choose(0.5)),
    "fold_weights": fold_weights,
    "fold_batch_norm": fold_batch_norm,
    "factorize": lambda f, p, x: factorize(f, p, x, rank=2),
    "quantize": lambda f, p, x: quantize(f, p, x, scheme=Scheme(8, inputs=None)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "rewrite",
    ["shrink", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in REWRITES if name != "shrink")],
)
def test_exported_for_any_batch_they_are_what_they_were(network: str, rewrite: str) -> None:
    function, params, shape, names = NETWORKS[network]
    inputs = [jax.random.normal(jax.random.key(n), (n, *shape)) for n in (2, 5)]
    new, small = REWRITES[rewrite](function, params, inputs[0])
    for_any = jax.ShapeDtypeStruct(export.symbolic_shape(names), jnp.float32)
    program = export.export(jax.jit(new))(small, for_any)
    for x in inputs:
        np.testing.assert_allclose(program.call(small, x), new(small, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_groups_of_any_batch_are_those_of_one(network: str) -> None:
    function, params, shape, names = NETWORKS[network]
    one, other = (groups(function, params, jax.ShapeDtypeStruct(s, jnp.float32)) for s in ((2, *shape), (3, *shape)))
    for_any = groups(function, params, jax.ShapeDtypeStruct(export.symbolic_shape(names), jnp.float32))
    for found in (other, for_any):
        pairs = zip((*one.free, *one.frozen), (*found.free, *found.frozen), strict=True)
        for a, b in pairs:
            assert (a.name, a.size, a.frozen) == (b.name, b.size, b.frozen)
            np.testing.assert_equal([m.indices for m in a.members], [m.indices for m in b.members])


def test_what_every_example_keeps_is_taken_of_an_axis_with_a_name() -> None:
    keep = np.array([True, False, True])
    taken = {}
    for order, mask in {"inner": np.tile(keep, 4), "outer": np.repeat(keep, 4)}.items():
        program = export.export(jax.jit(lambda x, mask=mask: pick_alike(x, 0, mask)))(
            jax.ShapeDtypeStruct(export.symbolic_shape("3*n"), jnp.int32)
        )
        taken[order] = program.call(jnp.arange(6, dtype=jnp.int32)).tolist()
    assert taken == {"inner": [0, 2, 3, 5], "outer": [0, 1, 4, 5]}


@pytest.mark.parametrize(
    "written", ["a", "2*a + b", "a*b^2 - 3", "max(a, 3)", "mod(b, 5)", "floordiv(a, 2) + min(a, b)"]
)
def test_numbers_stand_in_for_names(written: str) -> None:
    numbers = Numbers()
    a, b, size = export.symbolic_shape(f"a, b, {written}")
    numbers.settle([a, b])
    found = {"a": numbers(a), "b": numbers(b)}
    plain = eval(written.replace("^", "**").replace("mod(b, 5)", "b % 5").replace("floordiv(a, 2)", "a // 2"), found)
    assert numbers(size) == plain
    assert found["a"] != found["b"]


def test_numbers_are_large_enough_for_what_is_made_of_them() -> None:
    numbers, (size, part) = Numbers(), export.symbolic_shape("n, floordiv(n, 32) - 1")
    numbers.settle([size, part])
    assert numbers(part) > 1
    assert numbers(size) in SCALES
