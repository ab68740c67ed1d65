"""Corrections on data that were not given: never worse than the plain method, however little they vary."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.observe import row_moments
from jaxcomp.observe.evidence import Seen
from jaxcomp.observe.held_out import NO_BETTER, Examples, examples_of, is_better, is_worse
from jaxcomp.observe.row_moments import moments_of
from jaxcomp.posttrain import correct_biases, equalize, ptq, refit, round_weights, smooth, sparsify
from jaxcomp.rewrite import Scheme, mask
from tests.rewrite.lowrank.test_factors import normal

WIDE, HIDDEN = 16, 32
LAYER = {
    "up": normal(WIDE, HIDDEN, seed=1) / 4,
    "bias": normal(HIDDEN, seed=2) / 4,
    "down": normal(HIDDEN, WIDE, seed=3) / 5,
    "shift": jnp.zeros(WIDE),
}
PARAMS = {"first": LAYER, "head": normal(WIDE, 9, seed=4)}


def residual(p: Any, x: jax.Array) -> jax.Array:
    own = p["first"]
    return (x + jax.nn.gelu(x @ own["up"] + own["bias"]) @ own["down"] + own["shift"]) @ p["head"]


def error(new: Any, function: Any = residual, params: Any = PARAMS, size: Any = (512, WIDE)) -> float:
    unseen = normal(*size, seed=9)
    return float(jnp.sqrt(jnp.mean((function(new, unseen) - function(params, unseen)) ** 2)))


def rounded(bits: int, **options: Any) -> Callable[[Any], tuple[Any, Any]]:
    def both(x: Any) -> tuple[Any, Any]:
        call = lambda **how: round_weights(residual, PARAMS, [x], Scheme(bits, inputs=None), **how)  # noqa: E731
        return call(**options).params, call(method="nearest", biases=False).params

    return both


def pruned(method: Any) -> Callable[[Any], tuple[Any, Any]]:
    return lambda x: tuple(sparsify(residual, PARAMS, [x], 0.5, method=own).params for own in (method, "magnitude"))


def corrected(method: Any) -> Callable[[Any], tuple[Any, Any]]:
    rough = jax.tree.map(lambda leaf: jnp.round(leaf * 4) / 4 if leaf.ndim == 2 else leaf, PARAMS)
    return lambda x: (correct_biases(residual, PARAMS, [x], rough, method=method).params, rough)


def cut(x: Any) -> tuple[Any, Any]:
    groups = jc.trace.groups(residual, PARAMS, x)
    (name,) = (group.name for group in groups if group.size == HIDDEN)
    keep = {name: np.arange(HIDDEN) % 4 > 0}
    return refit(residual, PARAMS, [x], groups, keep), mask(groups, PARAMS, keep)


METHODS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "gptq": rounded(4),
    "sparsegpt": pruned("sparsegpt"),
    "refit": cut,
    "fast biases": corrected("fast"),
}
MORE = {
    "gptq, 8 bits": rounded(8),
    "adaround": rounded(4, method="adaround", steps=100),
    "obc": pruned("obc"),
    "wanda": pruned("wanda"),
    "exact biases": corrected("exact"),
}


@pytest.mark.parametrize(("name", "samples"), [("gptq", 20), ("sparsegpt", 3), ("refit", 20), ("fast biases", 3)])
def test_few_samples_do_no_harm(name: str, samples: int) -> None:
    found, plain = METHODS[name](normal(samples, WIDE, seed=5))
    assert error(found) <= 1.02 * error(plain)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "samples"), [
    (name, samples) for i, name in enumerate({**METHODS, **MORE})
    for j, samples in enumerate([1, 2, 3, 8, 20, 64, 320]) if (i + j) % 2 == 0
])  # fmt: skip
def test_any_number_of_samples_does_no_harm(name: str, samples: int) -> None:
    found, plain = {**METHODS, **MORE}[name](normal(samples, WIDE, seed=6))
    assert error(found) <= 1.02 * error(plain)


def images(p: Any, x: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    for name in ("one", "two"):
        own = p[name]
        x = jax.nn.relu(lax.conv_general_dilated(x, own["w"], (1, 1), "SAME", dimension_numbers=numbers) + own["b"])
    return x.mean((1, 2)) @ p["head"] + p["shift"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("samples", [1, 4, 24])
def test_ptq_of_convolutions_does_no_harm(samples: int, bits: int) -> None:
    params = {"one": {"w": normal(3, 3, 3, 8, seed=1) / 4, "b": jnp.zeros(8)}, "head": normal(8, 6, seed=3)}
    params |= {"two": {"w": normal(3, 3, 8, 8, seed=2) / 6, "b": jnp.zeros(8)}, "shift": jnp.zeros(6)}
    x = normal(samples, 8, 8, 3, seed=5) + normal(samples, 1, 1, 3, seed=6)
    errors = []
    for fit, how in ((None, {}), (jc.quant.mse() if bits < 8 else None, {"method": "nearest", "biases": False})):
        new = ptq(images, params, [x], Scheme(bits, inputs="dynamic", fit=fit), **how)
        errors.append(error(new.params, lambda p, x, new=new: (new.apply_fn if p is new.params else images)(p, x),
                            params, (128, 8, 8, 3)))  # fmt: skip
    assert errors[0] <= 1.02 * errors[1]


def test_what_reports_show_is_what_others_show() -> None:
    x = normal(160, WIDE, seed=5)
    new = round_weights(residual, PARAMS, [x], Scheme(4, inputs=None))
    shown = {row.path: row.error for row in new.report.rows}["head"]
    whole = float(jnp.sqrt(jnp.mean(residual(PARAMS, normal(512, WIDE, seed=9)) ** 2)))
    assert shown is not None
    assert 0.7 < np.sqrt(shown) / (error(new.params) / whole) < 1.4
    assert "40 of 160 examples" in str(new.report)


def honesty(samples: int, seeds: Any, scheme: Scheme) -> float:
    """The errors that reports show of the function over those on unseen data, each averaged over seeds as squares."""
    unseen, shown = normal(256, WIDE, seed=9), []
    whole = residual(PARAMS, unseen)
    for seed in seeds:
        x = normal(samples, WIDE, seed=seed)
        ranges = jc.rewrite.calibrate(residual, PARAMS, [x], scheme) if scheme.inputs else None
        new = round_weights(residual, PARAMS, [x], scheme, ranges=ranges)
        integers, packed = jc.rewrite.quantize(residual, new.params, x, scheme=scheme, ranges=ranges, grids=new.grids)
        error = jnp.sum((integers(packed, unseen) - whole) ** 2) / jnp.sum(whole**2)
        shown.append(({row.path: row.error for row in new.report.rows}["head"], error))
    return float(np.sqrt(np.divide(*np.sum(shown, 0))))


def test_what_was_held_out_is_clipped_as_what_is_unseen() -> None:
    assert 0.5 < honesty(8, range(4), Scheme()) < 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(4, input_bits=4), Scheme(4, inputs=None)], ids=["8", "4", "w4"])
@pytest.mark.parametrize("samples", [4, 8, 24, 64])
def test_reports_of_any_number_of_examples_are_honest(samples: int, scheme: Scheme) -> None:
    least = 0.2 if scheme == Scheme() else 0.6  # of 8 bits: the few examples that are clipped carry most of the error
    assert least < honesty(samples, range(10, 18), scheme) < 1 / least


def hinge(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]


SCALED: dict[str, Callable[..., Any]] = {
    "equalize": lambda x, scheme: equalize(hinge, LAYER, x, scheme=scheme).params,
    "smooth": lambda x, scheme: smooth(hinge, LAYER, [x], scheme=scheme).params,
}
SCHEMES = {
    "one scale": Scheme(4, axis=None, inputs=None),
    "channels": Scheme(4, inputs=None),
    "int8": Scheme(),
    "int4": Scheme(4, axis=None, input_bits=4),
}


def quantized_error(params: Any, x: Any, scheme: Scheme) -> float:
    ranges = jc.rewrite.calibrate(hinge, params, [x], scheme)
    new, packed = jc.rewrite.quantize(hinge, params, x, scheme=scheme, ranges=ranges)
    unseen = normal(512, WIDE, seed=9)
    return float(jnp.sqrt(jnp.mean((new(packed, unseen) - hinge(LAYER, unseen)) ** 2)))


def test_channels_stay_where_scaling_them_does_harm() -> None:
    x, scheme = normal(8, WIDE, seed=5), SCHEMES["one scale"]
    new = smooth(hinge, LAYER, [x], scheme=scheme)
    harmed, plain = (quantized_error(params, x, scheme) for params in (SCALED["smooth"](x, None), LAYER))
    assert harmed > 1.1 * plain
    assert new.params is LAYER or all(new.params[path] is LAYER[path] for path in LAYER)
    assert {row.skipped for row in new.report.rows if row.path == "up"} == {NO_BETTER}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "kind", "samples"), [
    (name, kind, samples) for i, name in enumerate(SCALED) for j, kind in enumerate(SCHEMES)
    for k, samples in enumerate([1, 3, 8, 20, 64]) if (i + j + k) % 2 == 0
])  # fmt: skip
def test_scaled_channels_do_no_harm(name: str, kind: str, samples: int) -> None:
    x, scheme = normal(samples, WIDE, seed=6), SCHEMES[kind]
    assert quantized_error(SCALED[name](x, scheme), x, scheme) <= 1.02 * quantized_error(LAYER, x, scheme)


def test_channels_are_scaled_where_it_helps() -> None:
    uneven = LAYER | {"up": LAYER["up"] * jnp.geomspace(0.02, 2, HIDDEN)}
    new = equalize(hinge, uneven, normal(16, WIDE, seed=5), scheme=SCHEMES["one scale"])
    assert any(row.greatest > 1.5 for row in new.report.rows)


@pytest.mark.parametrize("spread", [0.2, 0.6])
def test_chance_is_taken_for_a_gain_one_time_in_six_and_a_gain_is_seen(spread: float) -> None:
    seen = {}
    for count in (1, 2, 4, 16):
        found, plain = np.exp(np.random.default_rng(count).normal(0, spread, (2, 1000, count)) / np.sqrt(2))
        assert np.mean([is_better(*each) for each in zip(found, plain, strict=True)]) < 0.2
        assert not any(is_better(*each) and is_worse(*each) for each in zip(found, plain, strict=True))
        seen[count] = np.mean([is_better(0.7 * each, other) for each, other in zip(found, plain, strict=True)])
    assert seen[1] < seen[2] < seen[4] < seen[16]
    assert seen[16] > 0.85
    assert is_better(np.zeros(4), np.ones(4))
    assert not is_better(np.zeros(0), np.zeros(0))


def test_held_out_examples_are_whole_and_spread() -> None:
    two = examples_of([(jnp.ones((6, 2)),)] * 2)
    assert [np.flatnonzero(own.held).tolist() for own in two] == [[3], [1, 5]]
    assert two[0].split_axes((5, 6, 2)).held.tolist() == [2 * (6 * i + 3) + j for i in range(5) for j in range(2)]
    assert two[0].split_axes((12,)).held.tolist() == [6, 7]
    assert examples_of([(jnp.ones((2, 3)),)])[0].held == (False, True)
    (alone,) = examples_of([(jnp.ones((1, 3)),)])
    assert alone == Examples(1, (False,), True)
    assert alone.split_axes((1, 8)).held.tolist() == [6, 7]


@pytest.mark.parametrize("fewer", [1.5, 0.0])
def test_moments_are_about_their_means_and_add_up(fewer: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_moments, "FEWER", fewer)
    rng = np.random.default_rng(0)
    rows = (1e3 + rng.standard_normal((2, 40, 5))).astype(np.float32) * np.float32(1e-22)
    change = rng.standard_normal((2, 40, 5)).astype(np.float32) * np.float32(1e-26)
    weight = normal(2, 5, 3)
    half = np.split(np.arange(40), [13])
    wide = lambda x: np.asarray(x, np.float64)  # noqa: E731
    parts = moments_of([rows[:, :15], rows[:, 15:]], [change[:, :15], change[:, 15:]], 4 * wide(weight), [
        (half[0], []), (half[1][:2], half[1][2:] - 15)
    ])  # fmt: skip
    both = parts[0].merged(parts[1])
    assert both.lack is not None
    (x, e), near = both.units, functools.partial(np.testing.assert_allclose, rtol=1e-3)
    lacking = 4 * wide(change) @ wide(weight)
    off, out = (own - own.mean(1, keepdims=True) for own in (wide(rows), lacking))
    near(wide(both.now) * x * x, off.swapaxes(1, 2) @ off, atol=1e-3 * np.max(off**2) * 40)
    near(wide(both.lack.cross) * x * e, off.swapaxes(1, 2) @ out, atol=1e-3 * np.max(off) * np.max(out) * 40)
    near(wide(both.lack.squares) * e * e, (out**2).sum(1))
    near(wide(both.mean) * x, rows.astype(np.float64).mean(1), rtol=1e-6)
    near(wide(both.lack.mean) * e, lacking.mean(1), atol=1e-3 * np.max(out))
    known = Seen(*parts).evidence([])
    assert 0.5 < np.mean(np.diagonal(known.inputs, axis1=1, axis2=2)) < 4


@pytest.mark.parametrize("fewer", [1.5, 0.0])
@pytest.mark.parametrize("centered", [True, False])
def test_errors_are_those_of_the_rows(centered: bool, fewer: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of inputs that hardly vary, have hardly changed, and are of any size."""
    monkeypatch.setattr(row_moments, "FEWER", fewer)
    rng = np.random.default_rng(0)
    size = np.float32(1e-18)
    rows = (1 + 1e-3 * rng.standard_normal((1, 200, 6))).astype(np.float32) * size
    change = 1e-5 * rng.standard_normal((1, 200, 6)).astype(np.float32) * size
    old = np.asarray(1e20 * normal(1, 6, 3), np.float64)
    way = np.asarray(normal(1, 6, 3, seed=1), np.float64)
    new = old + 1e18 * (way - way.mean(1, keepdims=True))
    split = np.split(np.arange(200), [150])
    known = Seen(*moments_of([rows], [change], old, [[take] for take in split])).evidence([], centered)
    x, e = rows[0].astype(np.float64), change[0].astype(np.float64) @ old[0]
    out = x @ (new - old)[0] - e
    off = out - (out[split[0]].mean(0) if centered else 0)
    want = [np.mean(off[take] ** 2, 0) for take in (split[1], split[0])]
    found = np.stack([known.error(new, old, held)[0] for held in (True, False)])
    np.testing.assert_allclose(found / found.sum(), want / np.sum(want), rtol=1e-3)
    (way,) = new - old
    x, e = (
        x[split[1]] - (x[split[0]].mean(0) if centered else 0),
        e[split[1]] - (e[split[0]].mean(0) if centered else 0),
    )
    best = np.sum((x @ way) * e) / np.sum((x @ way) ** 2)
    np.testing.assert_allclose(known.share(old, new, old), np.clip(best, 0, 1), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("spread", [0.01, 0.001])
def test_inputs_that_hardly_vary(spread: float) -> None:
    layer = lambda p, x: x @ p["w"] + p["b"]  # noqa: E731
    params = {"w": normal(24, 6, seed=1), "b": jnp.zeros(6)}
    x = 1 + jnp.arange(24) / 24 + spread * normal(64, 24, seed=2)
    new = round_weights(layer, params, [x], Scheme(8, inputs=None)).params
    plain = round_weights(layer, params, [x], Scheme(8, inputs=None), method="nearest", biases=False).params
    off, other = (np.abs(layer(p, x) - layer(params, x)).max() for p in (new, plain))
    assert off < 0.2 * other


def test_a_weight_that_reads_zeros_stays_in_floating_point() -> None:
    def function(p: Any, x: jax.Array) -> jax.Array:
        return x @ p["seen"] + jax.nn.relu(-jnp.abs(x)) @ p["idle"]

    params, x = {"seen": normal(6, 4), "idle": normal(6, 4, seed=1)}, normal(12, 6)
    ranges = jc.rewrite.calibrate(function, params, [x])
    assert list(ranges) == ["seen"]
    assert list(ranges.skipped) == ["idle"]
    integers, packed = jc.rewrite.quantize(function, params, x, ranges=ranges)
    new = ptq(function, params, [x])
    for report in (integers.report, new.report.quantized, new.report.rounded):
        assert {row.path: row.skipped for row in report.rows}["idle"].startswith("its inputs are 0")
    assert packed["idle"] is params["idle"]
    for out in (integers(packed, x), new.apply_fn(new.params, x)):
        np.testing.assert_allclose(out, function(params, x), atol=0.2)
