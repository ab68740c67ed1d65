"""The first and the last layers are found through branches of the graph, remat, and what moves numbers about."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcomp.trace import ends

X = jnp.ones((2, 4))


def square(names: str) -> dict[str, jax.Array]:
    return dict.fromkeys(names, jnp.ones((4, 4)))


def test_several_first_and_last_ones() -> None:
    def function(p: Any, x: jax.Array, y: jax.Array) -> Any:
        h = jax.nn.relu(x @ p["a"]) + (y.T.reshape(2, 4) * 2) @ p["b"]
        h = jax.checkpoint(lambda h, w: jnp.tanh(h) @ w)(h, p["c"])
        return {"boxes": h @ p["d"] + p["bias"], "scores": jax.nn.softmax(h @ p["e"]), "skip": x @ p["f"]}

    params = square("abcdef") | {"bias": jnp.ones(4)}
    assert ends(function, params, X, X) == (["a", "b", "f"], ["d", "e", "f"])


def test_loops_are_between() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = lax.scan(lambda h, w: (h @ w, None), x @ p["a"], p["loop"])[0]
        return (h @ p["b"]).reshape(-1)

    params = square("ab") | {"loop": jnp.ones((3, 4, 4))}
    assert ends(function, params, X) == (["a"], ["b"])
    inner = ends(lambda p, x: jax.checkpoint(lambda p, x: x @ p["a"] @ p["b"])(p, x), params, X)
    assert inner == (["a"], ["b"])
