"""Small networks of random layers in random order, by number, for every writer of files."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

MARKS: tuple[Any, ...] = (pytest.mark.exhaustive, (pytest.mark.exhaustive, pytest.mark.nightly))
"""Of the first ten of 200 networks, and of the others."""


def conv(x: jax.Array, w: jax.Array, stride: int = 1, padding: Any = "SAME", **settings: Any) -> jax.Array:
    """A convolution, channels last."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def random_network(seed: int) -> tuple[Callable[..., Any], Any]:
    """A few layers in random order: convolutions of all kinds, sums, concatenations, pools, gates; then dense."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape, scale=1.0: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)  # noqa: E731
    kinds = rng.choice(["conv", "deep", "strided", "add", "concat", "pool", "mean", "gate", "flip"], rng.integers(2, 6))
    params, width = dict[str, jax.Array](), 3
    steps: list[tuple[str, int]] = []
    for i, kind in enumerate(map(str, kinds)):
        size = int(rng.choice([1, 2, 3]))
        wide = {"deep": width, "add": width, "concat": int(rng.integers(1, 5))}.get(kind, int(rng.integers(2, 7)))
        if kind in ("conv", "deep", "strided", "add", "concat"):
            inner = 1 if kind == "deep" else width
            params[f"w{i}"] = normal(size, size, inner, wide, scale=1 / (size * inner**0.5))
            params[f"b{i}"] = normal(wide, scale=0.3)
            width = width + wide if kind == "concat" else wide
        steps.append((kind, i))
    params["head"] = normal(width, 3)

    def fn(p: Any, x: jax.Array) -> jax.Array:
        for kind, i in steps:
            layer = lambda **s: conv(x, p[f"w{i}"], **s) + p[f"b{i}"]  # noqa: B023, E731
            match kind:
                case "conv":
                    x = jax.nn.relu(layer())
                case "deep":
                    x = jax.nn.relu6(layer(feature_group_count=x.shape[-1]))
                case "strided":
                    x = layer(stride=2, padding=((1, 0), (0, 1)) if min(x.shape[1:3]) > 2 else "SAME")
                case "add":
                    x = jax.nn.relu(x + layer())
                case "concat":
                    x = jnp.concatenate([x, layer()], -1)
                case "pool":
                    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
                case "mean":
                    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME") / 4
                case "gate":
                    x = x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True))
                case "flip":
                    x = x.swapaxes(1, 2)[:, ::-1]
        return x.mean((1, 2)) @ p["head"]

    return fn, params
