"""Rewritten functions outside of jit: one program a shape, the bits of their jitted form, whatever they close over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc

PARAMS = {"up": jnp.linspace(-1, 1, 32).reshape(4, 8), "down": jnp.cos(jnp.arange(16.0)).reshape(8, 2)}
X = jnp.sin(jnp.arange(12.0)).reshape(3, 4)


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["up"]) @ p["down"]


REWRITES: dict[str, Any] = {
    "shrink": lambda f: jc.rewrite.shrink(f, PARAMS, X, keep={"up": np.arange(8) < 5}),
    "factorize": lambda f: jc.rewrite.factorize(f, PARAMS, X, rank=1, cheaper=False),
    "fake_quantize": lambda f: jc.rewrite.fake_quantize(f, PARAMS, X, scheme=jc.rewrite.Scheme(8, inputs="dynamic")),
    "qat": lambda f: jc.rewrite.qat(f, PARAMS, [X]),
    "quantize": lambda f: jc.rewrite.quantize(f, PARAMS, X, ranges=jc.rewrite.calibrate(f, PARAMS, [X])),
}


@pytest.mark.parametrize("name", REWRITES)
def test_it_is_compiled_whole(name: str) -> None:
    new, params = REWRITES[name](mlp)
    wanted = jax.jit(lambda p, x: new(p, x))(params, X)
    compiled: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        compiled.append(event) if event.endswith("backend_compile_duration") else None

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        found = [new(params, X) for _ in range(2)]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1
    for each in found:
        np.testing.assert_array_equal(each, wanted)


def test_it_may_close_over_what_is_traced() -> None:
    def total(factor: jax.Array) -> jax.Array:
        keep = {"up": np.arange(8) < 5}
        new, params = jc.rewrite.shrink(lambda p, x: factor * mlp(p, x), PARAMS, X, keep=keep)
        return new(params, X).sum() + new(params, X[:2]).sum()

    for factor in (2.0, 3.0):
        np.testing.assert_allclose(jax.grad(total)(factor), total(factor) / factor, rtol=1e-5)
