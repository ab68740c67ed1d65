"""One layer at a time is what a scheme of that layer alone does; budgets are kept; what is given back suffices."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import Scheme, calibrate, fake_quantize
from jaxcomp.search import Sensitivity, SensitivityRow, allocate, fall_back, sensitivity


class Net(nn.Module):
    """Two convolutions, one of them depthwise, and a head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6)(x))
        return nn.Dense(4)(x.mean((1, 2)))


def scanned(p: Any, x: jax.Array) -> jax.Array:
    """Layers that are stacked, and a head."""
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0] @ p["head"]


def case(name: str) -> tuple[Any, Any, list[jax.Array]]:
    """A function, its parameters, and two batches."""
    rng = np.random.default_rng(4)
    if name == "scan":
        params = {"w": rng.standard_normal((3, 6, 6)), "head": rng.standard_normal((6, 4))}
        data = [jnp.asarray(rng.standard_normal((5, 6)), jnp.float32) for _ in range(2)]
        return scanned, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), data
    data = [jnp.asarray(rng.standard_normal((3, 6, 6, 2)), jnp.float32) for _ in range(2)]
    return Net().apply, Net().init(jax.random.key(0), data[0]), data


OPTIONS = {
    "w4a4": Scheme(4, input_bits=4),
    "w3": Scheme(3, inputs=None, fit=jc.quant.mse(20)),
    "nf4": Scheme("nf4", inputs=None, block=8),
    "float": None,
}


def kl(before: Any, after: Any) -> float:
    """The mean divergence of two batches of logits."""
    p, q = (np.asarray(jax.nn.log_softmax(each), np.float64) for each in (before, after))
    return float(np.mean(np.sum(np.exp(p) * (p - q), -1)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [pytest.param("cnn", marks=pytest.mark.exhaustive), "scan"])
def test_harm_is_that_of_the_layer_alone(name: str) -> None:
    function, params, data = case(name)
    found = sensitivity(function, params, data, OPTIONS)
    assert found.options == tuple(OPTIONS)
    for row in found.rows:
        if row.scheme is None:
            assert row.harm == 0
            assert row.memory_bytes == row.file_bytes == 4 * np.prod(row.shape)
            continue
        count, bits = int(np.prod(row.shape)), row.scheme.format.bits
        assert row.memory_bytes - row.file_bytes == -(-count // 2) - -(-count * bits // 8)  # all lie in half bytes
        rules = {row.path: row.scheme}
        ranges = calibrate(function, params, data, rules)
        alone = jax.jit(fake_quantize(function, params, data[0], scheme=rules, ranges=ranges)[0])
        expected = np.mean([kl(function(params, x), alone(params, x)) for x in data])
        np.testing.assert_allclose(row.harm, expected, rtol=2e-3, atol=1e-7)
        assert row.memory_bytes < 4 * np.prod(row.shape)
    assert "w4a4" in str(found)
    assert len(jc.measure.layer_sensitivity(found.rows).axes[0].collections) == len(OPTIONS)


def test_bit_operations_are_products_times_bits() -> None:
    function, params, data = case("scan")
    found = sensitivity(function, params, data, OPTIONS, harm="error")
    rows = {(row.path, row.option): row.bit_operations for row in found.rows}
    assert rows["head", "float"] == 5 * 6 * 4 * 32 * 32
    assert rows["w", "w4a4"] == 3 * 5 * 6 * 6 * 4 * 4
    assert rows["w", "w3"] == 3 * 5 * 6 * 6 * 3 * 32


def test_second_order_harm_is_exact_where_the_loss_is_a_parabola(rng: np.random.Generator) -> None:
    params = {"a": jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)}
    bend = {"a": jnp.asarray(rng.uniform(0.1, 2, (2, 3)), jnp.float32)}
    options = {"3": Scheme(3, inputs=None, axis=None)}
    (row,) = sensitivity(lambda p, x: x @ p["a"], params, [jnp.ones((1, 2))], options, curvature=bend).rows
    w = np.asarray(params["a"], np.float64)
    scale = np.abs(w).max() / 3
    off = w - np.round(w / scale) * scale
    np.testing.assert_allclose(row.harm, 0.5 * np.sum(np.asarray(bend["a"], np.float64) * off**2), rtol=1e-5)


def made(harms: np.ndarray, costs: np.ndarray) -> Sensitivity:
    """A table of these numbers, ``[layers, choices]``."""
    rows = [
        SensitivityRow(f"layer{i}", (4,), str(j), Scheme(8 - j), float(harms[i, j]), *3 * [int(costs[i, j])])
        for i, j in np.ndindex(*harms.shape)
    ]
    return Sensitivity(tuple(rows))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["memory_bytes", "bit_operations", "file_bytes"])
def test_budgets_are_kept_and_little_is_left_to_gain(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(10, 100, 5)
    costs = sizes[:, None] * np.array([8, 6, 4, 2])
    harms = rng.exponential(size=5)[:, None] * 4.0 ** -np.array([8.0, 6, 4, 2])
    budget = int(rng.uniform(costs[:, -1].sum(), costs[:, 0].sum()))
    chosen = allocate(made(harms, costs), **{kind: budget})
    places = [8 - scheme.bits for scheme in chosen.values() if scheme]
    spent, lost = (numbers[range(5), places].sum() for numbers in (costs, harms))
    assert spent <= budget
    every = [
        [numbers[range(5), own].sum() for numbers in (costs, harms)] for own in itertools.product(range(4), repeat=5)
    ]
    assert lost >= min(harm for cost, harm in every if cost <= budget) - 1e-12
    short = [harm for cost, harm in every if cost <= budget - 2 * sizes.max()]  # one step of one layer
    assert not short or lost <= min(short) + 1e-12


def test_the_choice_is_a_scheme_of_quantize() -> None:
    function, params, data = case("cnn")
    found = sensitivity(function, params, data, {str(b): Scheme(b, inputs=None) for b in (8, 4, 2)}, harm="error")
    rules = allocate(found, memory_bytes=0.6)
    new, _ = jc.rewrite.quantize(function, params, data[0], scheme=rules)
    held = {row.path: row.bytes for row in new.report.rows}
    assert sum(held.values()) <= 0.6 * sum(row.memory_bytes for row in found.of("8").values())
    assert len({row.format for row in new.report.rows}) > 1


@pytest.mark.parametrize("instead", [None, Scheme(8, inputs=None)])
def test_as_few_are_given_back_as_it_takes(instead: Scheme | None) -> None:
    function, params, data = case("cnn")
    scheme = Scheme(2, inputs=None)

    def score(run: Any, own: Any) -> float:
        return -float(np.mean([kl(function(params, x), run(own, x)) for x in data]))

    found = sensitivity(function, params, data, {"2": scheme})
    ranked = list(found.of("2"))
    scores = []
    for count in range(len(ranked) + 1):
        rules = {path: instead if i < count else scheme for i, path in enumerate(ranked)}
        scores.append(score(*fake_quantize(function, params, data[0], scheme=rules)))
    assert scores == sorted(scores)
    drop = -(scores[0] + scores[1]) / 2
    result = fall_back(function, params, data, score, drop=drop, scheme=scheme, instead=instead)
    assert result.whole == pytest.approx(0, abs=1e-6)
    assert result.reverted == (ranked[0],)
    assert result.score == pytest.approx(scores[1], rel=1e-3, abs=1e-6)
    assert dict(result.tried)[0] == pytest.approx(scores[0], rel=1e-3)
    assert fall_back(function, params, data, score, drop=10.0, scheme=scheme, found=found).reverted == ()


def test_what_cannot_be_asked_for() -> None:
    function, params, data = case("scan")
    with pytest.raises(ArgumentError, match="harm must be one of kl, error or a function, got 'loss'"):
        sensitivity(function, params, data, OPTIONS, harm="loss")
    with pytest.raises(ArgumentError, match="at least one option"):
        sensitivity(function, params, data, {})
    with pytest.raises(ArgumentError, match="'head': inputs can be switched on if they are static integers"):
        sensitivity(function, params, data, {"dynamic": Scheme(inputs="dynamic")})
    with pytest.raises(ArgumentError, match="compares one array of logits"):
        sensitivity(lambda p, x: (scanned(p, x), x), params, data, OPTIONS)
    found = made(np.ones((2, 2)), np.array([[8, 4], [8, 4]]))
    for several in ({}, {"memory_bytes": 8, "file_bytes": 8}):
        with pytest.raises(ArgumentError, match=f"either memory_bytes or bit_operations .* got {len(several)}"):
            allocate(found, **several)
    with pytest.raises(ArgumentError, match="bytes=7 asks for 7, and the cheapest choices take 8"):
        allocate(found, memory_bytes=7)
    with pytest.raises(ArgumentError, match="no option is called '9'; there are 0, 1"):
        found.of("9")
    with pytest.raises(ArgumentError, match="drop must be at least 0"):
        fall_back(function, params, data, lambda run, own: 0.0, drop=-1)
    worse = iter([1.0, 0.0, 0.5])
    with pytest.raises(ArgumentError, match=r"with every layer given back the score is 0.5, and 0.9 is asked for"):
        fall_back(function, params, data, lambda run, own: next(worse), drop=0.1, scheme=Scheme(2, inputs=None))


@pytest.mark.exhaustive
def test_a_budget_of_a_file_is_kept_by_the_file(rng: np.random.Generator, tmp_path: Any) -> None:
    """However weights are rounded, biases that were 0 being corrected, and with the decisions beside them."""
    params = {f"w{i}": jnp.asarray(rng.standard_normal((40, 40)) / 6, jnp.float32) for i in range(3)}
    params |= {f"b{i}": jnp.zeros(40) for i in range(3)}

    def function(p: Any, x: jax.Array) -> jax.Array:
        for i in range(3):
            x = jnp.tanh(x @ p[f"w{i}"] + p[f"b{i}"])
        return x

    data = [jnp.asarray(rng.standard_normal((64, 40)), jnp.float32)]
    found = sensitivity(function, params, data, {str(b): Scheme(b) for b in (8, 4, 3, 2)}, harm="error")
    assert found.size_of is not None
    for budget, method in ((2700, "nearest"), (3300, "gptq"), (0.7, "nearest")):
        chosen = allocate(found, file_bytes=budget)
        new = jc.posttrain.ptq(function, params, data, chosen, method=method)
        limit = budget if budget > 1 else budget * found.size_of(dict.fromkeys(chosen, Scheme(8)))
        parameters = jc.pack.save(tmp_path / "parameters.jcz", new.params)
        whole = jc.rewrite.save(tmp_path / "function.jcz", new.apply_fn, new.params)
        assert parameters < whole <= limit
        assert whole > 0.8 * limit  # and little of it is left
    with pytest.raises(ArgumentError, match=r"file_bytes=400 asks for 400, and the cheapest choices take [\d,]+:"):
        allocate(found, file_bytes=400)
