"""Programs by what they compute: shared where texts agree, and only there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcomp.core import programs
from jaxcomp.core.programs import compiled, together

X, Y = jnp.arange(3.0), jnp.arange(3.0) + 10


def count(*calls: Any) -> int:
    before = len(programs._KNOWN)
    for call in calls:
        call()
    return len(programs._KNOWN) - before


def test_closures_that_compute_the_same_share_a_program() -> None:
    def make(factor: float) -> Any:
        return compiled(lambda x, y: {"sum": factor * x + y})

    own = [make(3.5), make(3.5), make(4.5)]
    assert count(*(lambda f=f: f(X, Y) for f in own)) == 2
    for f, factor in zip(own, (3.5, 3.5, 4.5), strict=True):
        np.testing.assert_array_equal(f(X, Y)["sum"], factor * X + Y)


def test_what_differs_in_results_arguments_or_constants_does_not() -> None:
    table = {
        "first": (lambda x, y: x + 1.25, X + 1.25),
        "second": (lambda x, y: y + 1.25, Y + 1.25),
        "swapped": (lambda x, y: (y, x), (Y, X)),
        "as they are": (lambda x, y: (x, y), (X, Y)),
        "named": (lambda x, y: {"b": y, "a": x}, {"a": X, "b": Y}),
        "a constant": (lambda x, y: x + np.arange(3, dtype=np.float32), X + jnp.arange(3.0)),
        "another": (lambda x, y: x + np.arange(3, dtype=np.float32)[::-1], X + jnp.arange(3.0)[::-1]),
    }
    for _ in range(2):
        for function, wanted in table.values():
            found = compiled(function)(X, Y)
            assert jax.tree.structure(found) == jax.tree.structure(wanted)
            jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_other_shapes_types_and_devices_have_their_own() -> None:
    twice = compiled(lambda x: x + x)
    for x in (X, X[:2], X.astype(jnp.bfloat16), np.float32(2), 3, jax.device_put(X, jax.devices()[-1])):
        np.testing.assert_array_equal(np.asarray(twice(x), np.float32), 2 * np.asarray(x, np.float32))


def test_calls_of_a_kind_are_one_program_and_all_tell_whether_all_is_finite() -> None:
    calls = [(X,), (X[:2] - 1,), (X.astype(jnp.bfloat16),), (jnp.arange(2),)]
    found: list[Any] = []
    root = together(jnp.sqrt)
    assert count(lambda: found.extend(root([*calls[::2], (2 * X,), (3 * X,)]))) == 2
    assert found[1]
    jax.tree.map(np.testing.assert_array_equal, found[0], [jnp.sqrt(x) for x in (X, calls[2][0], 2 * X, 3 * X)])
    assert not root(calls)[1]
    assert root([]) == ([], False)
    assert not together(jnp.sqrt, check=False)(calls[::2])[1]  # not asked for
    assert jax.grad(lambda x: root([(x,)])[0][0])(4.0) == 0.25
    assert count(lambda: root([(X,), (jax.device_put(X, jax.devices()[-1]),)])) == 0
