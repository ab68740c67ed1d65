"""Within a call a function is traced once a kind of arguments; after it anew."""

import jax
import jax.numpy as jnp
import pytest

from jaxcomp.core.errors import CallError
from jaxcomp.trace.ir import Program, trace
from jaxcomp.trace.once import once
from jaxcomp.trace.uses import uses_of

PARAMS, X = {"w": jnp.ones((3, 2))}, jnp.ones((4, 3))


def test_a_function_is_traced_once_a_kind_of_arguments_as_long_as_a_call_lasts() -> None:
    runs: list[int] = []

    def layer(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        runs.append(len(x))
        return x @ params["w"]

    @once
    def twice(x: jax.Array) -> list[Program]:
        found = [trace(layer, PARAMS, x), trace(layer, PARAMS, 2 * x), trace(layer, PARAMS, x[1:])]
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return [*found, *(trace(layer, PARAMS, shape) for _ in range(2)), *once(lambda: [trace(layer, PARAMS, x)])()]

    one, same, other, *shapes, inner = twice(X)
    assert one is same is inner
    assert shapes[0] is shapes[1]
    assert other is not one
    assert other.frame.ins[1].shape == (3, 3)
    assert runs.count(3) == 1
    assert twice(X)[0] is not one  # nothing is held


def test_who_reads_parameters_is_looked_up_once_and_belongs_to_each_caller() -> None:
    @once
    def looked() -> None:
        program = trace(lambda p, x: x @ p["w"], PARAMS, X)
        first, second = uses_of(program), uses_of(program)
        assert first["w"] is second["w"]
        first.clear()
        assert second

    looked()


def test_what_is_no_array_is_said_to_be_none() -> None:
    with pytest.raises(CallError, match="apply_fn"):
        once(lambda: trace(lambda p, x: x, PARAMS, "text"))()
