"""Harms are those of exact differences, of outputs of any type and structure; what is no number is never fine."""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import Scheme
from jaxcomp.search import Sensitivity, SensitivityRow, allocate, fall_back, harms, sensitivity

INF, NAN = math.inf, math.nan
divergence, squared_error = jax.jit(harms.divergence), jax.jit(harms.squared_error)
Pair = collections.namedtuple("Pair", "image count")
DTYPES = [
    "bool", "int4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "bfloat16", "float16", "float32", "complex64"
]  # fmt: skip


def numbers(dtype: str, seed: int) -> np.ndarray:
    """From all of a type's range, with its ends."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(40) < 0.5
    if "int" in dtype:
        ends = jnp.iinfo(dtype)
        drawn = rng.integers(int(ends.min), int(ends.max), 40, endpoint=True)
        drawn[:4] = [ends.min, ends.max, ends.min, ends.max] if seed else [ends.max, ends.min, ends.min, ends.max]
        return drawn.astype(jnp.dtype(dtype))
    real = rng.standard_normal(40)
    return (real + 1j * rng.standard_normal(40) if dtype == "complex64" else real).astype(jnp.dtype(dtype))


def exact(before: Any, after: Any) -> float:
    """Squared differences over squares, in float64."""
    lost = whole = 0.0
    for b, a in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        kind = np.complex128 if np.iscomplexobj(b) else np.float64
        wide = [np.asarray(x).astype(kind) for x in (b, a)]
        lost, whole = lost + np.sum(np.abs(wide[1] - wide[0]) ** 2), whole + np.sum(np.abs(wide[0]) ** 2)
    return float(lost / whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_squared_error_is_exact_in_every_type(dtype: str) -> None:
    before, after = numbers(dtype, 0), numbers(dtype, 1)
    np.testing.assert_allclose(squared_error(before, after), exact(before, after), rtol=1e-5)
    assert squared_error(before, before) == 0


def test_outputs_of_any_structure_are_compared_as_one() -> None:
    mixed = {
        seed: {"a": (numbers("uint8", seed), None), "b": [Pair(numbers("complex64", seed), np.int32(3 + seed))]}
        for seed in (0, 1)
    }
    mixed[0]["k"] = mixed[1]["k"] = jax.random.key(0)
    plain = {seed: {key: own for key, own in tree.items() if key != "k"} for seed, tree in mixed.items()}
    found = squared_error(mixed[0], mixed[1])
    for seed in (0, 1):
        plain[seed]["b"] = [jax.tree.map(np.asarray, own) for own in plain[seed]["b"]]
    key_bits = np.asarray(jax.random.key_data(jax.random.key(0)))
    wide = [{**plain[seed], "k": key_bits} for seed in (0, 1)]
    np.testing.assert_allclose(found, exact(*wide), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_the_unit_of_outputs_is_of_no_account(size: float) -> None:
    before, after = numbers("float32", 0), numbers("float32", 1)
    scaled = squared_error(before * np.float32(size), after * np.float32(size))
    np.testing.assert_allclose(scaled, squared_error(before, after), rtol=1e-5)
    nothing = np.zeros_like(before)
    assert squared_error(nothing, nothing) == 0
    assert squared_error(nothing, after * np.float32(size)) == INF


@pytest.mark.parametrize("measure", [divergence, squared_error])
def test_infinities_that_stay_are_no_harm_and_others_are_without_limit(measure: Any) -> None:
    before = np.array([[1.0, 0.0, -INF], [-INF, -INF, -INF], [2.0, 1.0, 0.5]], np.float32)
    assert measure(before, before) == 0
    near = before + np.float32(0.01) * np.arange(3, dtype=np.float32)
    assert 0 < measure(before, near) < 0.01
    for row, column, value in [(0, 0, NAN), (0, 0, -INF), (2, 1, INF), (2, 1, NAN), (1, 0, NAN)]:
        after = before.copy()
        after[row, column] = value
        assert measure(before, after) == INF, (row, column, value)


def test_a_divergence_is_that_of_the_classes_that_are_not_ruled_out() -> None:
    p, q = np.array([[1.0, -1.0, 0.3]], np.float32), np.array([[0.7, -1.0, 0.6]], np.float32)
    ruled_out = np.full((1, 2), -INF, np.float32)
    wide = [np.concatenate([each, ruled_out], 1) for each in (p, q)]
    np.testing.assert_allclose(divergence(*wide), divergence(p, q), rtol=1e-6)
    certain = np.array([[INF, 0.0]], np.float32)  # softmax tends to one class
    np.testing.assert_allclose(divergence(certain, np.zeros((1, 2), np.float32)), np.log(2), rtol=1e-6)


X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 4)), jnp.float32)
PARAMS = {
    "a": jnp.asarray(np.random.default_rng(1).standard_normal((4, 6)), jnp.float32),
    "b": jnp.asarray(np.random.default_rng(2).standard_normal((6, 5)), jnp.float32),
}
OPTIONS = {"8": Scheme(8, inputs=None), "2": Scheme(2, inputs=None)}


def net(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["a"]) @ p["b"]


def masked(p: Any, x: jax.Array) -> jax.Array:
    """Actions that are ruled out, others for each example."""
    return jnp.where((jnp.arange(5)[None] + jnp.arange(len(x))[:, None]) % 5 < 2, -jnp.inf, net(p, x))


@pytest.mark.parametrize("harm", ["kl", "error"])
def test_layers_before_a_mask_of_infinities_are_ranked(harm: str) -> None:
    found = sensitivity(masked, PARAMS, [X], OPTIONS, harm=harm)
    assert all(0 < row.harm < INF for row in found.rows)
    assert [scheme.bits for scheme in allocate(found, memory_bytes=10**6).values() if scheme] == [8, 8]


@pytest.mark.parametrize("dtype", ["uint8", "complex64", "bool"])
def test_fall_back_takes_any_outputs(dtype: str) -> None:
    def function(p: Any, x: jax.Array) -> Any:
        out = jnp.clip(jnp.round(net(p, x) * 20 + 128), 0, 255)
        return {"image": (out > 128 if dtype == "bool" else out.astype(dtype)), "none": None}

    def score(run: Any, own: Any) -> float:
        return -float(np.mean(np.asarray(run(own, X)["image"]) != np.asarray(function(PARAMS, X)["image"])))

    result = fall_back(function, PARAMS, [X], score, drop=0.0, scheme=Scheme(2, inputs=None))
    assert set(result.reverted) == {"a", "b"}
    assert result.score == 0


@pytest.mark.parametrize("bad", [NAN, -INF])
def test_what_is_no_number_in_the_function_itself_is_refused(bad: float) -> None:
    def divided(p: Any, x: jax.Array) -> Any:
        out = net(p, x)
        return {"logits": out, "ratio": jnp.where(jnp.arange(5) < 2, bad - bad, out)}

    with pytest.raises(ArgumentError, match=r"output 'ratio' holds NaN in 16 of 40 numbers"):
        sensitivity(divided, PARAMS, [X], OPTIONS, harm="error")
    with pytest.raises(ArgumentError, match=r"'b' holds NaN or infinity, .*: 1 of 30 numbers"):
        sensitivity(net, PARAMS | {"b": PARAMS["b"].at[0, 0].set(bad)}, [X], OPTIONS)


def test_curvature_is_matched_by_path_and_checked() -> None:
    bent = {path: jnp.ones_like(leaf) for path, leaf in PARAMS.items()}
    rows = [sensitivity(net, PARAMS, [X], OPTIONS, curvature=each).rows for each in (bent, Named(**bent))]
    assert rows[0] == rows[1]
    with pytest.raises(ArgumentError, match=r"the curvature of 'b' holds NaN or infinity, .* measured: 2 of 30"):
        sensitivity(net, PARAMS, [X], OPTIONS, curvature=bent | {"b": bent["b"].at[0, :2].set(NAN)})
    with pytest.raises(ArgumentError, match=r"curvature= has nothing for 'b' of shape \(6, 5\)"):
        sensitivity(net, PARAMS, [X], OPTIONS, curvature={"a": bent["a"]})


Named = collections.namedtuple("Named", "b a")


def test_a_harm_that_is_no_number_is_the_worst() -> None:
    found = sensitivity(net, PARAMS, [X], OPTIONS, harm=lambda b, a: jnp.where(jnp.any(b != a), NAN, 0.0))
    assert all(row.harm == INF for row in found.rows)
    with pytest.raises(ArgumentError, match=r"harm must give a number, got an array of shape \(8, 5\)"):
        sensitivity(net, PARAMS, [X], OPTIONS, harm=lambda b, a: b - a)


def table(harms: dict[str, dict[str, float]]) -> Sensitivity:
    """Each choice costs its number of bits."""
    rows = [
        SensitivityRow(path, (4,), bits, Scheme(int(bits)), harm, *3 * [int(bits)])
        for path, own in harms.items()
        for bits, harm in own.items()
    ]
    return Sensitivity(tuple(rows))


def test_what_harms_without_limit_is_not_chosen() -> None:
    found = table({"a": {"8": 0.0, "4": 0.1, "2": INF}, "b": {"8": 0.0, "4": INF, "2": 0.5}})
    assert [scheme.bits for scheme in allocate(found, memory_bytes=10).values() if scheme] == [8, 2]
    assert [scheme.bits for scheme in allocate(found, memory_bytes=6).values() if scheme] == [4, 2]
    with pytest.raises(ArgumentError, match=r"the cheapest choices take 6: .* infinite: '2' for 'a', '4' for 'b'"):
        allocate(found, memory_bytes=5)
    with pytest.raises(ArgumentError, match=r"each choice for 'a' \(8, 2\) does infinite harm"):
        allocate(table({"a": {"8": INF, "2": INF}}), memory_bytes=10)
    unknown = table({"a": {"8": 0.0}, "b": {"8": NAN}, "c": {"8": 3.0}})
    with pytest.raises(ArgumentError, match="the harm of '8' to 'b' is NaN"):
        allocate(unknown, memory_bytes=100)
    assert list(unknown.of("8")) == ["b", "c", "a"]
    with pytest.raises(ArgumentError, match="bytes must be at least 0, got nan"):
        allocate(found, memory_bytes=NAN)


def test_a_score_that_is_no_number_never_suffices() -> None:
    scheme, found = Scheme(2, inputs=None), table({"a": {"2": 1.0}, "b": {"2": 0.5}})
    for whole in (NAN, INF, -INF):
        with pytest.raises(ArgumentError, match="the original function scores"):
            fall_back(net, PARAMS, [X], lambda run, own: whole, drop=0.1, scheme=scheme, found=found)  # noqa: B023
    scores = iter([1.0, NAN, 1.0, NAN])  # as it is, nothing given back, all, one
    result = fall_back(net, PARAMS, [X], lambda run, own: next(scores), drop=0.1, scheme=scheme, found=found)
    assert result.reverted == ("a", "b")
    with pytest.raises(ArgumentError, match="drop must be at least 0, got nan"):
        fall_back(net, PARAMS, [X], lambda run, own: 1.0, drop=NAN)
