"""What an interpreter rebuilds, bodies and all, computes what the program did, and has its derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcomp.trace.interpreter import EMIT, Interpreter
from jaxcomp.trace.ir import Node, trace
from tests.laws.executions import bit_equal


@jax.custom_jvp
def _softplus(x: Any) -> Any:
    return jnp.logaddexp(x, 0)


@_softplus.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return _softplus(*primals), 0.5 * tangents[0]  # not its derivative: whoever forgets the rule is found out


@jax.custom_vjp
def _scaled(x: Any) -> Any:
    return 2 * x


_scaled.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))


def _function(w: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(h: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = lax.cond(row[0] > 0, lambda h: _softplus(h * row), lambda h: jax.checkpoint(jnp.sin)(h), h)
        return h, h.sum()

    h, each = lax.scan(step, x, w, reverse=True)
    times, h = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1]) + w[0]), (0, h))
    return jax.jit(jnp.cos)(h) * times, each


class _Rebuilt(Interpreter):
    """Enters every body, and notes which primitives it met."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()

    def node(self, node: Node, operands: list[Any]) -> list[Any]:
        self.met.add(node.op)
        return self.enter(node, operands) if node.op in EMIT else super().node(node, operands)


def test_what_is_rebuilt_is_the_same() -> None:
    rng = np.random.default_rng(0)
    w, x, dw, dx = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 3), (3,), (4, 3), (3,)))
    program, run = trace(_function, w, x), _Rebuilt()

    def rebuilt(w: Any, x: Any) -> Any:
        return tuple(run.body(program.frame, [w, x]))

    old, new = (jax.jit(lambda *at, f=f: jax.jvp(f, at[:2], at[2:]))(w, x, dw, dx) for f in (_function, rebuilt))
    assert bit_equal(new, old)
    assert {"sin", "tanh", "cos", "custom_jvp_call"} <= run.met  # of remat in cond in scan, of while, of jit


def test_a_derivative_in_reverse_is_kept_where_it_is_not_entered() -> None:
    program = trace(lambda w, x: _scaled(w * x), jnp.ones(3), jnp.ones(3))
    plain = jax.grad(lambda w: Interpreter().body(program.frame, [w, jnp.ones(3)])[0].sum())(jnp.ones(3))
    assert plain.tolist() == [3.0] * 3
