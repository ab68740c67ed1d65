"""Networks in which something is zero when training begins, all of them in one function: each has a loss of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

NAMES = ("head", "channel", "factors", "branch")
STEPS, RATE = 120, 0.02


def begin(dtype: Any = jnp.float32) -> dict[str, Any]:
    """A head of zeros, a channel of zeros, low-rank factors with a product of zero, a residual branch of zero."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, dtype)  # noqa: E731
    return {
        "head": {"a": draw(6, 8), "w": jnp.zeros((8, 3), dtype)},
        "channel": {"a": draw(6, 8), "w": draw(8, 3).at[:, 1].set(0)},
        "factors": {"a": draw(6, 8), "b": draw(8, 3), "u": draw(8, 2), "w": jnp.zeros((2, 3), dtype)},
        "branch": {"a": draw(6, 8), "b": draw(8, 3), "u": draw(6, 8), "w": jnp.zeros((8, 8), dtype)},
    }


def outputs(params: Any, x: Any) -> dict[str, Any]:
    p = params["factors"]
    hidden = jnp.tanh(x @ p["a"])
    found = {name: jnp.tanh(x @ params[name]["a"]) @ params[name]["w"] for name in ("head", "channel")}
    found["factors"] = hidden @ p["b"] + (hidden @ p["u"]) @ p["w"]
    p = params["branch"]
    return found | {"branch": (x @ p["a"] + jnp.tanh(x @ p["u"]) @ p["w"]) @ p["b"]}


def data(dtype: Any = jnp.float32) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(32, 6))
    return jnp.asarray(x, dtype), jnp.asarray(np.tanh(x @ rng.normal(size=(6, 3))), jnp.float32)


def losses(found: dict[str, Any], y: Any) -> jax.Array:
    """``[4]``, in the order of ``NAMES``."""
    return jnp.stack([jnp.mean(jnp.square(found[name].astype(jnp.float32) - y)) for name in NAMES])


def trained(loss: Any, params: Any, moved: Any = lambda params, state, i: state, state: Any = ()) -> tuple[Any, Any]:
    """Parameters and state after training by ``loss(params, state) -> [4]``, in one program."""
    tx = optax.adam(RATE)

    def step(carry: Any, i: Any) -> Any:
        params, state, opt_state = carry
        state = moved(params, state, i)
        grads = jax.grad(lambda params: loss(params, state).sum())(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(STEPS))[0])
    return run((params, state, tx.init(params)))[:2]


def reached(loss: Any, at: Any) -> np.ndarray:
    return np.asarray(jax.jit(loss)(*at))
