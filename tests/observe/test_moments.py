"""Second moments are the Gram matrices of what sites compute, in every kind of body; what has none is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcomp.core.errors import ArgumentError
from jaxcomp.observe import moments
from jaxcomp.observe.moments import second_moments
from jaxcomp.rewrite import factorize

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
W = RNG.standard_normal((3, 4, 4)).astype(np.float32) / 2


def gram(*results: np.ndarray) -> np.ndarray:
    return sum(result.T @ result for result in results)  # type: ignore[return-value]


def found(function: Any, params: Any, *batches: Any) -> Any:
    return second_moments(function, params, batches)


def test_of_a_while_loop_every_iteration_counts() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, (x[0, 0] * 0).astype(int) + 3, lambda i, h: jnp.tanh(h @ p["w"]), x)

    h, results = X.astype(np.float64), []
    for _ in range(3):
        results.append(h @ W[0])
        h = np.tanh(results[-1])
    (moment,) = found(function, {"w": W[0]}, X).of["w"]
    np.testing.assert_allclose(moment, gram(*results), rtol=1e-5)


def test_of_a_branch_those_batches_that_take_it_count() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return lax.cond(x.sum() > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"], x)

    params, up = {"yes": W[0], "no": W[1]}, abs(X)
    own = found(function, params, -up, up[:3], up[3:])
    np.testing.assert_allclose(own.of["yes"][0], gram(up @ W[0]), rtol=1e-4)
    np.testing.assert_allclose(own.of["no"][0], gram(up @ W[1]), rtol=1e-4)
    never = found(function, params, up)
    assert list(never.of) == ["yes"]
    assert never.missing == {"no": "what it computes on the data is 0"}


def test_of_stacked_weights_each_has_its_own_also_under_other_loops() -> None:
    def layers(stack: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, w: (lax.cond(True, lambda: jnp.tanh(h @ w), lambda: h), None), x, stack)[0]

    def function(p: Any, x: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 2, lambda i, h: layers(p["w"], h), x)

    h = X.astype(np.float64)
    results: list[list[np.ndarray]] = [[], [], []]
    for layer in (0, 1, 2, 0, 1, 2):
        results[layer].append(h @ W[layer])
        h = np.tanh(results[layer][-1])
    own = found(function, {"w": W}, X).of["w"]
    np.testing.assert_allclose(own, [gram(*each) for each in results], rtol=1e-4, atol=1e-4)


def test_a_weight_read_by_two_scans_one_inside_the_other_is_told_apart() -> None:
    def function(p: Any, x: jax.Array) -> Any:
        def outer(h: Any, w: Any) -> Any:
            inner = lax.scan(lambda h, v: (h, (h @ v).sum()), h, p["w"])[1]
            return h, ((h @ w).sum(), inner)

        return lax.scan(outer, x, p["w"])[1]

    own = found(function, {"w": W}, X).of["w"]
    np.testing.assert_allclose(own, [4 * gram(X @ w) for w in W], rtol=1e-4, atol=1e-4)


def test_a_weight_read_both_ways_and_one_too_wide_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return (x @ p["tied"]) @ p["tied"].T @ p["wide"]

    params = {"tied": W[0], "wide": jnp.asarray(RNG.standard_normal((4, 5)), jnp.float32)}
    monkeypatch.setattr(moments, "WIDEST", 4)
    own = found(function, params, X)
    assert not own.of
    assert own.missing == {"tied": "its sites compute different features", "wide": "more than 4 features"}


def test_the_report_names_what_was_done_without_data() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = lax.while_loop(lambda h: (h @ p["test"]).sum() > 9, lambda h: h / 2, x)
        return lax.conv(h[None, None] @ p["seen"], p["window"], (1, 1), "SAME")

    params = {"seen": W[0], "test": W[1], "window": RNG.standard_normal((2, 1, 3, 3)).astype(np.float32)}
    options: dict[str, Any] = {"rank": 1, "cheaper": False, "method": [("window", "spatial")]}
    new, _ = factorize(function, params, X, batches=[X], **options)
    assert {row.path: row.plain for row in new.report.rows} == {
        "seen": "",
        "test": "it is read in a while loop's condition",
        "window": "spatial is of the weight alone",
    }
    assert "without data because" in str(new.report)
    assert "without data" not in str(factorize(function, params, X, **options)[0].report)


def test_no_batch_is_refused() -> None:
    with pytest.raises(ArgumentError, match="batches= gave no batch"):
        factorize(lambda p, x: x @ p["w"], {"w": W[0]}, X, rank=1, batches=[])
