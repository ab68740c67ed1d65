"""What an observer sees is what plain Python computes, in every kind of body."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.trace.ir import Value, all_nodes, trace
from jaxcomp.trace.observer import Observer, observable

X = np.array([0.5, -1.0, 2.0], np.float32)


def scanned(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(lambda h, w: (jnp.sin(h * w), h), x, p)[0]


def looped(p: Any, x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, 2, lambda i, h: jnp.sin(h * p[1]), jnp.sin(x * p[0]))


def while_looped(p: Any, x: jax.Array) -> jax.Array:
    start = jnp.sin(x * p[0])
    return lax.while_loop(
        lambda s: s[0] < jnp.sum(p) / jnp.sum(p) + 1, lambda s: (s[0] + 1, jnp.sin(s[1] * p[1])), (0.0, start)
    )[1]


def branched(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.sin(jnp.sin(x * p[0]) * p[1])
    return lax.cond(x[0] > 0, lambda h: jnp.sin(h * p[1]), lambda h: h, h)


def rematerialized(p: Any, x: jax.Array) -> jax.Array:
    layer = jax.checkpoint(lambda h, w: jnp.sin(h * w))
    return layer(layer(layer(x, p[0]), p[1]), p[1])


@jax.custom_jvp
def own_sine(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


own_sine.defjvps(lambda t, out, x: t * jnp.cos(x))


def with_derivative(p: Any, x: jax.Array) -> jax.Array:
    return jax.jit(own_sine)(own_sine(own_sine(x * p[0]) * p[1]) * p[1])


P = jnp.array([0.7, 1.3, 1.3])


@pytest.mark.parametrize("function", [scanned, looped, while_looped, branched, rematerialized, with_derivative])
def test_sums_over_all_runs(function: Callable[..., Any]) -> None:
    program = trace(function, P, X)
    sines = {node.outs[0] for node in all_nodes(program.frame) if node.op == "sin"} & observable(program.frame)
    observer = Observer(program, {value: lambda x: (x, jnp.float32(1)) for value in sines})
    outs, sums = jax.jit(lambda leaves: observer(leaves))([P, X])
    h, expected = X.astype(np.float64), []
    for w in P:
        h = np.sin(h * float(w))
        expected.append(h)
    np.testing.assert_allclose(outs, h, rtol=1e-5)
    np.testing.assert_allclose(np.sum([s for s, _ in sums], axis=0), np.sum(expected, axis=0), rtol=1e-5)
    assert sum(float(count) for _, count in sums) == 3


def test_a_value_of_another_program_is_refused() -> None:
    with pytest.raises(ArgumentError, match="not one of the program's"):
        Observer(trace(scanned, P, X), {Value((3,), np.float32): lambda x: x})
