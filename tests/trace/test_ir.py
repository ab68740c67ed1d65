"""Flattening: calls are inlined with values of their own, bodies stay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

import jaxcomp as jc
from jaxcomp.trace.ir import all_nodes, trace

X, ONE = jnp.ones((2, 3)), jnp.ones(())


def ops(function: Callable[[jax.Array], jax.Array]) -> list[str]:
    return [node.op for node in all_nodes(trace(lambda p, x: function(x * p), ONE, X).frame)]


def test_calls_are_inlined_and_each_has_its_own_values() -> None:
    inner = jax.jit(lambda x: jnp.sin(x))
    program = trace(lambda p, x: inner(inner(x * p)), ONE, X)
    assert [node.op for node in program.frame.nodes] == ["mul", "sin", "sin"]
    first, second = program.frame.nodes[1:]
    assert first.outs[0] is second.ins[0]
    assert program.frame.outs == second.outs


def test_bodies_stay_nodes() -> None:
    assert ops(lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, length=2)[0]) == ["mul", "scan", "sin"]
    assert ops(jax.checkpoint(jnp.sin))[2:] == ["sin"]
    assert ops(jax.nn.relu)[:5] == ["mul", "custom_jvp_call", "max", "max", "gt"]
    assert ops(lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x))[-3:] == ["cond", "cos", "sin"]


def test_paths_of_parameters_and_results() -> None:
    program = trace(lambda p, x: {"out": (x * p["w"][0], p["b"])}, {"w": [1.0], "b": 2.0}, X)
    assert program.paths == ("b", "w/0")
    assert program.out_paths == ("out/0", "out/1")
    assert set(program.parameters()) == {"b", "w/0"}


def test_constants_and_literals_are_held() -> None:
    program = trace(lambda p, x: x * p + jnp.arange(3.0) * 2, 1.0, X)
    held = [value.const for node in program.frame.nodes for value in node.ins if value.const is not None]
    assert held


def test_a_place_is_known_inside_a_library_function() -> None:
    program = trace(lambda p, x: jnp.fft.fft(x * p).real, 1.0, X)
    (node,) = (node for node in all_nodes(program.frame) if node.op == "fft")
    assert "test_ir.py" in node.place


def test_what_a_rewrite_made_was_written_where_the_function_was() -> None:
    """Of a second rewrite, reports name the user's lines: of integers, of calls, of what was left as it is."""

    def network(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.cumsum(jax.nn.relu(x @ p["a"]) @ p["b"], axis=0)

    params = {"a": jnp.eye(3, 4), "b": jnp.ones((4, 2))}
    scheme = jc.rewrite.Scheme(8, inputs="dynamic")
    first, packed = jc.rewrite.quantize(network, params, X, scheme=[("a", scheme)])
    second, packed = jc.rewrite.quantize(first, packed, X, scheme=[("b", scheme)])
    nodes = list(all_nodes(trace(second, packed, X).frame))
    assert {"dot_general", "cumsum", "round"} <= {node.op for node in nodes}
    assert {node.place.split(":")[0] for node in nodes} == {"test_ir.py"}
