"""Rounded weights: on their grids, never above rounding to the nearest, zeros kept, means kept; the rest is named."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError, RuleError
from jaxcomp.core.paths import named_leaves
from jaxcomp.posttrain import correct_biases, round_weights, walk, walk_sums
from jaxcomp.rewrite import Scheme, calibrate, densify, fake_quantize, quantize
from tests.rewrite.channels.test_models import CASES, prepared
from tests.rewrite.lowrank.test_factors import conv, normal

X = normal(60, 6) @ normal(6, 6, seed=1)
IMAGE = normal(12, 9, 8, 6)
WEIGHTS = Scheme(3, inputs=None)


class Site(NamedTuple):
    """A function of a weight and a bias, the weight's shape, and its input."""

    function: Callable[..., Any]
    shape: tuple[int, ...]
    x: jax.Array


COSTLY = ("grouped", "depthwise")
"""Sites whose learned rounding is left to the exhaustive tests."""

SITES = {
    "matmul": Site(lambda p, x: x @ p["w"], (6, 5), X),
    "on the left": Site(lambda p, x: jnp.einsum("oi,bi->bo", p["w"], x), (5, 6), X),
    "grouped": Site(conv((2, 1), "SAME", feature_group_count=2), (3, 3, 3, 4), IMAGE),
    "depthwise": Site(conv((1, 1), "SAME", feature_group_count=6), (3, 3, 1, 12), IMAGE),
}
SCHEMES = {
    "channels": WEIGHTS,
    "one scale": Scheme(3, axis=None, inputs=None),
    "blocks": Scheme(2, inputs=None, block=4),
    "affine": Scheme(3, symmetric=False, inputs=None),
    "nf4, a fit": Scheme("nf4", inputs=None, fit=jc.quant.mse(10)),
    "inputs": Scheme(3, inputs="dynamic", input_bits=4),
}


def columns(site: Site, params: Any, x: jax.Array) -> np.ndarray:
    """A site's results in float64, a column a feature."""
    out = np.asarray(site.function(params, x), np.float64)
    return out.reshape(-1, out.shape[-1])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("method", "name"), [
    pytest.param(method, name, marks=pytest.mark.exhaustive if method == "adaround" and name in COSTLY else [])
    for method in ("gptq", "adaround") for name in SITES
])  # fmt: skip
def test_the_error_is_not_above_that_of_rounding_to_the_nearest(method: Any, name: str, scheme: str) -> None:
    site, own = SITES[name], SCHEMES[scheme]
    weight = normal(*site.shape, seed=3)
    params = {"w": weight * (np.random.default_rng(5).random(site.shape) < 0.8)}
    data = [site.x[: len(site.x) // 2], site.x[len(site.x) // 2 :]]
    found = round_weights(site.function, params, data, own, method=method, damping=1e-3)
    plain = round_weights(site.function, params, data, own, method="nearest")
    x = site.x
    if own.inputs is None:
        wanted = columns(site, params, x)
        errors = [np.sum((columns(site, each.params, x) - wanted) ** 2, 0) for each in (found, plain)]
        assert errors[0].sum() <= errors[1].sum()
        if method == "gptq" and scheme != "nf4, a fit":  # up or down, the nearest may be the best that is found
            assert errors[0].sum() < errors[1].sum()
    else:
        assert found.report.rows[0].error < plain.report.rows[0].error
    assert not np.asarray(found.params["w"])[np.asarray(params["w"]) == 0].any()
    new, packed = quantize(site.function, found.params, x, scheme=own, grids=found.grids)
    np.testing.assert_array_equal(densify(packed)["w"], found.params["w"])
    again, _ = fake_quantize(site.function, found.params, x, scheme=own, grids=found.grids)
    np.testing.assert_array_equal(new(packed, x), again(found.params, x))


def two_layers(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"] + p["shift"]


LAYERS = {"up": normal(6, 8), "bias": normal(8), "down": normal(8, 3, seed=2), "shift": normal(3)}


@pytest.mark.parametrize("inputs", [None, "static", "dynamic"])
def test_layers_aim_at_what_the_float_network_computes(inputs: Any) -> None:
    scheme = Scheme(3, inputs=inputs, input_bits=4)
    ranges = calibrate(two_layers, LAYERS, [X], scheme) if inputs == "static" else {}

    def error(**options: Any) -> tuple[float, float]:
        new = round_weights(two_layers, LAYERS, [X[:30], X[30:]], scheme, ranges=ranges, **options)
        fake, _ = fake_quantize(two_layers, new.params, X, scheme=scheme, ranges=ranges, grids=new.grids)
        off = np.asarray(fake(new.params, X) - two_layers(LAYERS, X), np.float64)
        if options.get("biases", True):
            held = np.sum(off[3::4] ** 2) / np.sum(np.asarray(two_layers(LAYERS, X)[3::4], np.float64) ** 2)
            np.testing.assert_allclose(new.report.rows[0].error, held, rtol=0.25 if inputs == "static" else 0.1)
            assert "15 of 60 examples" in str(new.report)
        fitted = np.arange(len(X)) % 4 < 3 if inputs == "static" else slice(None)  # the others meet other ranges
        return float(np.sum(off**2)), float(np.abs(off[fitted].mean(0)).max())

    (best, mean), (biased, moved), (plain, _) = error(), error(biases=False), error(method="nearest", biases=False)
    assert max(best, biased) < plain
    assert mean < 1e-5 < moved


def test_exact_correction_makes_means_equal_and_fast_is_the_closed_form() -> None:
    rough = {name: leaf if leaf.ndim == 1 else jnp.round(leaf * 2) / 2 for name, leaf in LAYERS.items()}
    exact = correct_biases(two_layers, LAYERS, [X[:30], X[30:]], rough)
    np.testing.assert_allclose(two_layers(exact.params, X).mean(0), two_layers(LAYERS, X).mean(0), atol=1e-5)
    fast = correct_biases(two_layers, LAYERS, [X[:30], X[30:]], rough, method="fast")
    hidden = np.maximum(np.asarray(X, np.float64) @ LAYERS["up"] + LAYERS["bias"], 0)
    for name, inputs, bias in (("up", np.asarray(X, np.float64), "bias"), ("down", hidden, "shift")):
        wanted = np.asarray(LAYERS[bias]) + inputs.mean(0) @ np.asarray(LAYERS[name] - rough[name], np.float64)
        np.testing.assert_allclose(fast.params[bias], wanted, rtol=1e-4, atol=1e-5)
    assert all(fast.params[name] is rough[name] for name in ("up", "down"))


def test_batch_norm_at_rest_takes_up_means_and_other_biases_are_named() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        h = jax.nn.relu((x @ p["w"] - p["mean"]) / jnp.sqrt(p["var"]) * p["scale"] + p["b"])
        h = h @ p["bare"]
        h = (h @ p["twice"] + p["both"]) @ p["again"] + p["both"]
        h = h * 2 @ p["scaled"] * p["by"] + p["late"]
        return lax.scan(lambda h, w: (h @ w["k"] + w["b"], None), h, p["stack"])[0]

    params = {name: normal(6, 6, seed=i) for i, name in enumerate(("w", "bare", "twice", "again", "scaled"))}
    params |= {name: normal(6, seed=i) ** 2 + 0.5 for i, name in enumerate(("mean", "var", "scale", "b", "both", "by"))}
    params |= {"late": normal(6), "stack": {"k": normal(2, 6, 6), "b": normal(2, 6)}}
    new = round_weights(function, params, [X], Scheme(3, inputs=None))
    rows = {row.path: row for row in new.report.rows}
    assert (rows["w"].bias, rows["scaled"].bias) == ("mean", "late")
    assert rows["bare"].unmoved == "it has no bias"
    assert rows["twice"].unmoved == rows["again"].unmoved == "its bias has other readers"
    assert rows["stack/k"].unmoved == "it is in a loop, a branch or a shard_map"
    assert rows["stack/k"].skipped.startswith(
        "in a loop, a branch or a shard_map: layers there are rounded all at once"
    )
    assert not rows["w"].skipped
    assert new.report.left_out["stack/b"] == "read by add inside scan: no matmul or convolution"
    changed = {path for path, leaf in named_leaves(new.params).items() if leaf is not named_leaves(params)[path]}
    assert changed == {"w", "bare", "twice", "again", "scaled", "mean", "late", "stack/k"}
    norm = lambda p: ((X @ p["w"] - p["mean"]) / jnp.sqrt(p["var"])).mean(0)  # noqa: E731
    np.testing.assert_allclose(norm(new.params), norm(params), atol=1e-5)
    fast = correct_biases(function, params, [X], new.params, method="fast")
    why = {path: (bias, reason) for path, bias, reason in fast.report.rows}
    assert why["w"] == ("mean", "")
    assert why["scaled"] == ("", "its result is scaled before the bias: method='exact' corrects it")


def test_what_cannot_be_watched_is_rounded_to_the_nearest_and_named() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return (x @ p["tied"]) @ p["tied"].T + (0 * x) @ p["idle"] + x @ p["float"]

    params = {name: normal(6, 6, seed=i) for i, name in enumerate(("tied", "idle", "float"))}
    new = round_weights(function, params, [X], [("tied|idle", WEIGHTS)])
    rows = {row.path: row for row in new.report.rows}
    assert rows["tied"].skipped == "its sites sum over different features"
    assert rows["idle"].skipped == "its inputs are 0 on the data"
    assert rows["float"].skipped == "not asked for"
    assert new.params["float"] is params["float"]
    plain = quantize(function, params, X, scheme=[("tied|idle", WEIGHTS)])[1]
    for name in ("tied", "idle"):
        np.testing.assert_array_equal(new.params[name], densify(plain)[name])
    assert "nearest" in str(new.report)


def test_given_grids_stay_and_bfloat16_comes_back() -> None:
    params = {name: leaf.astype(jnp.bfloat16) for name, leaf in LAYERS.items()}
    grids = {"up": jc.quant.fit_grid(params["up"], 4, axis=-1)}
    new = round_weights(two_layers, params, [X], Scheme(4, inputs=None), grids=grids)
    np.testing.assert_array_equal(new.grids["up"].scale, grids["up"].scale)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, new.params, params))
    packed = quantize(two_layers, new.params, X, scheme=Scheme(4, inputs=None), grids=new.grids)[1]
    for name in ("up", "down"):
        np.testing.assert_array_equal(densify(packed)[name], new.params[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mobile", "vit_fused", "optimized_lstm", "scanned_layers", "nnx_resnet_train"])
def test_every_model(name: str) -> None:
    apply_fn, params = prepared(CASES[name])
    scheme = Scheme(4, inputs=None)
    new = round_weights(apply_fn, params, [CASES[name].example], scheme)
    assert jax.tree.structure(new.params) == jax.tree.structure(params)
    packed = quantize(apply_fn, new.params, CASES[name].example, scheme=scheme, grids=new.grids)[1]
    old, held = named_leaves(new.params), named_leaves(densify(packed))
    assert all(np.array_equal(old[path], held[path]) for path in new.grids)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(apply_fn(new.params, CASES[name].example)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, "method must be one of gptq, adaround, nearest"),
        ({"reference": "dense"}, "reference must be one of corrected, rounded"),
        ({"damping": -1}, "damping must be at least 0"),
        ({"sweeps": -1}, "sweeps must be a whole number of at least 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
        ({"scheme": Scheme(4)}, "the range of the inputs of 'down' is not known"),
        ({"scheme": WEIGHTS._replace(bits=8, axis=7)}, "axis 7 has a scale for each index"),
        ({"scheme": WEIGHTS._replace(axis=7)}, "axis 7 has a scale for each index"),
    ],
)
def test_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        round_weights(two_layers, LAYERS, [X], **{"scheme": WEIGHTS, **options})
    with pytest.raises(ArgumentError, match="gave no batch"):
        round_weights(two_layers, LAYERS, [], WEIGHTS)
    with pytest.raises(RuleError):
        round_weights(two_layers, LAYERS, [X], [("none", WEIGHTS)])
    with pytest.raises(ArgumentError, match="method must be 'exact' or 'fast'"):
        correct_biases(two_layers, LAYERS, [X], LAYERS, method="slow")  # type: ignore[arg-type]


def attention(p: Any, x: jax.Array) -> jax.Array:
    q, k, v = (x @ p[name] for name in "qkv")
    return jax.nn.softmax(q @ k.T) @ v @ p["out"]


def strides(p: Any, x: jax.Array) -> jax.Array:
    pairs = zip("abc", ((1, 1), (1, 1), (2, 2)), strict=True)
    return sum(jnp.mean(conv(by, "SAME")({"w": p[name]}, x), (1, 2)) for name, by in pairs)  # type: ignore[return-value]


ALIKE = {
    "attention": (attention, dict.fromkeys("qkv", (6, 6)) | {"out": (6, 3)}, X, [3, 1]),
    "strides": (strides, dict.fromkeys("abc", (3, 3, 6, 4)), normal(32, 6, 6, 6), [2, 1]),
}


@pytest.mark.parametrize("scheme", [Scheme(3, inputs=None), Scheme(8)])
@pytest.mark.parametrize("name", ALIKE)
def test_sites_that_read_the_same_share_its_moments(name: str, scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    function, shapes, x, groups = ALIKE[name]
    params, summed = {key: normal(*shape, seed=ord(key[0])) for key, shape in shapes.items()}, list[int]()

    def seen_by(*args: Any) -> Any:
        summed.append(len(args[-1]))
        return walk_sums.seen_by(*args)

    monkeypatch.setattr(walk, "seen_by", seen_by)
    ranges = calibrate(function, params, [x], scheme)
    together = round_weights(function, params, [x], scheme, ranges=ranges)
    assert summed == groups
    monkeypatch.setattr(walk, "rows_read", lambda use: id(use.node))
    alone = round_weights(function, params, [x], scheme, ranges=ranges)
    assert summed[len(groups) :] == [1] * sum(groups)
    for path, one in together.params.items():
        np.testing.assert_array_equal(one, alone.params[path])
    for one, other in zip(together.report.rows, alone.report.rows, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-3)


def test_what_is_read_through_other_factors_or_grids_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = list[int]()

    def seen_by(*args: Any) -> Any:
        summed.append(len(args[-1]))
        return walk_sums.seen_by(*args)

    monkeypatch.setattr(walk, "seen_by", seen_by)
    params = {name: normal(6, 4, seed=ord(name)) for name in "abc"}
    function = lambda p, x: x @ p["a"] + x @ (2 * p["b"]) + x @ p["c"]  # noqa: E731
    coarse = Scheme(8, inputs="dynamic", input_bits=4)
    round_weights(function, params, [X], [("c", coarse), (".*", Scheme(8, inputs=None))])
    assert summed == [1, 1, 1]
