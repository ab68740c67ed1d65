"""Rounding by a rate: the costs of a slow loop, files that shrink with it, budgets that hold, data that are few."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.factored import Factored
from jaxcomp.posttrain import round_weights
from jaxcomp.posttrain.fit_bytes import within
from jaxcomp.quant.gptq import Choices, descended, fixed
from jaxcomp.rewrite import Scheme
from tests.rewrite.lowrank.test_factors import normal

ONE = Scheme(6, axis=None, inputs=None)


def slow(weight: np.ndarray, inputs: Factored, scale: np.ndarray, kept: np.ndarray, choices: Choices) -> np.ndarray:
    """GPTQ by the textbook, in float64: the best of all levels by error and bits; the inverse shrinks row by row."""
    found, order = np.zeros(weight.shape), inputs.order[0]
    now = weight[0].astype(np.float64)
    inverse = np.linalg.inv(inputs.moment[0].astype(np.float64)[np.ix_(order, order)])
    for i, row in enumerate(order):
        for out in range(weight.shape[2]):
            levels = choices.levels * scale[0, row, out]
            bits = choices.bits[choices.which[0, row, out]]
            costs = (now[row, out] - levels) ** 2 / inverse[0, 0] + choices.price[0, 0, out] * bits
            found[0, row, out] = levels[np.argmin(costs)] if kept[0, row, out] else 0
        off = (now[row] - found[0, row]) / inverse[0, 0]
        now[order[i + 1 :]] -= inverse[1:, :1] * off
        inverse = inverse[1:, 1:] - np.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    return found


def test_weights_are_chosen_as_by_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((80, 70)) @ rng.standard_normal((70, 70)), rng.standard_normal((1, 70, 5))
    inputs = Factored.of(x.T[None] @ x[None] / 80, 0.01, True)
    kept = rng.random(weight.shape) < 0.8
    levels = np.arange(-3.0, 4.0)
    price = (0.3 * rng.random((1, 1, 5)) / np.square(inputs.upper[0].diagonal()).mean()).astype(np.float32)
    choices = Choices(levels, 6 * rng.random((4, 7)), rng.integers(0, 4, weight.shape), price)
    scale = np.full(weight.shape, 0.7, np.float32)
    given = [each.astype(np.float32) for each in (weight, scale)]
    numbers = given[1], np.zeros(weight.shape, np.int32), kept
    found, errors = fixed(given[0], inputs, numbers, None, choices=choices)
    np.testing.assert_allclose(errors, inputs.error(found - given[0]), rtol=1e-3)
    wanted = slow(weight, inputs, scale, kept, choices)
    assert np.mean(np.abs(found - wanted) > 1e-4) < 0.01
    assert not found[~kept].any()

    def cost(values: np.ndarray) -> Any:
        bits = choices.bits[choices.which, np.rint(values / 0.7).astype(int) + 3]
        return inputs.error(values - weight) + price * bits.sum(1, keepdims=True)

    moved = descended(given[0], found, inputs.moment, numbers, None, 3, choices=choices)
    assert (cost(moved) <= cost(found) * (1 + 1e-5)).all()


def residual(p: Any, x: jax.Array) -> jax.Array:
    return (x + jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]) @ p["head"]


PARAMS = {"up": normal(24, 48), "bias": normal(48), "down": normal(48, 24, seed=1), "head": normal(24, 8, seed=2)}
PARAMS |= {"down": PARAMS["down"] * (np.random.default_rng(3).random((48, 24)) < 0.5)}
X, UNSEEN = normal(96, 24, seed=5), normal(512, 24, seed=9)


def error(new: Any) -> float:
    wanted = residual(PARAMS, UNSEEN)
    return float(jnp.sum(jnp.square(residual(new, UNSEEN) - wanted)) / jnp.sum(jnp.square(wanted)))


def size(found: Any, tmp_path: Any) -> int:
    return jc.pack.save(tmp_path / "m.jcz", found.params, notes=found.notes)


@pytest.mark.exhaustive
def test_the_higher_the_rate_the_smaller_the_file(tmp_path: Any) -> None:
    felt = jc.observe.fisher_diagonal(jc.observe.output_gradients(residual, PARAMS, [X]))
    rates = {"none": {}, "low": {"rate": 1e-5}, "high": {"rate": 3e-4}, "felt": {"rate": 3e-4, "fisher": felt}}
    found = {name: round_weights(residual, PARAMS, [X], ONE, **how) for name, how in rates.items()}
    sizes, errors = {}, {}
    for name, each in found.items():
        sizes[name], errors[name] = size(each, tmp_path), error(each.params)
        kinds = {row.path: row.kind for row in jc.pack.inspect(tmp_path / "m.jcz").tensors}
        assert all(kinds[path].startswith(("codes", "table")) for path in each.grids)
        loaded, _ = jc.pack.load(tmp_path / "m.jcz")
        assert all(np.array_equal(loaded[path], each.params[path]) for path in PARAMS)
        assert not np.asarray(each.params["down"])[np.asarray(PARAMS["down"]) == 0].any()
    assert sizes["low"] < sizes["none"]
    assert sizes["high"] < 0.75 * sizes["low"]
    assert errors["low"] < errors["high"]
    assert errors["felt"] / errors["high"] < sizes["high"] / sizes["felt"]


def test_steps_are_those_of_the_price_whatever_codes_there_are(tmp_path: Any) -> None:
    """Codes of 8 bits with the finest steps would take 7 for what 4 do, and scales of float32 4 bytes an output."""
    found = {bits: round_weights(residual, PARAMS, [X], Scheme(bits, inputs=None), rate=1e-5) for bits in (5, 8)}
    sizes = {bits: size(own, tmp_path) for bits, own in found.items()}
    errors = {bits: error(own.params) for bits, own in found.items()}
    assert sizes[8] < 1.05 * sizes[5], sizes
    assert errors[8] < 1.1 * errors[5], errors
    for own in found.values():
        for grid in own.grids.values():
            part, _ = np.frexp(np.asarray(grid.scale))
            assert grid.scale.size > 1
            np.testing.assert_array_equal(16 * part, np.rint(16 * part))


def test_files_keep_to_budgets_and_beat_the_nearest(tmp_path: Any) -> None:
    plain = round_weights(residual, PARAMS, [X], Scheme(3, inputs=None), method="nearest", biases=False)
    budget = size(plain, tmp_path)
    found = round_weights(residual, PARAMS, [X], ONE, file_bytes=budget)
    assert 0.97 * budget < size(found, tmp_path) <= budget
    assert error(found.params) < 0.6 * error(plain.params)


@pytest.mark.exhaustive
@pytest.mark.parametrize("samples", [1, 2, 3, 8, 20])
def test_few_samples_do_no_harm(samples: int) -> None:
    plain = round_weights(residual, PARAMS, [X], Scheme(3, inputs=None), method="nearest", biases=False)
    found = round_weights(residual, PARAMS, [X[:samples]], ONE, rate=2e-5)
    assert error(found.params) <= 1.02 * error(plain.params)


def test_a_channel_that_is_never_on_leaves_the_price_of_the_others() -> None:
    def depthwise(p: Any, x: jax.Array) -> jax.Array:
        how: dict[str, Any] = {"dimension_numbers": ("NHC", "HIO", "NHC"), "feature_group_count": 4}
        return jax.lax.conv_general_dilated(x, p["kernel"], (1,), "SAME", **how)

    x, params = normal(24, 16, 4) * np.array([1, 0, 1, 1], np.float32), {"kernel": normal(5, 1, 4, seed=1)}
    felt = jc.observe.fisher_diagonal(jc.observe.output_gradients(depthwise, params, [x]))
    found = round_weights(depthwise, params, [x], Scheme(6, inputs=None), rate=1e-3, fisher=felt, biases=False)
    wanted, got = depthwise(params, x), depthwise(found.params, x)
    errors = np.square(got - wanted).sum((0, 1)) / np.maximum(np.square(wanted).sum((0, 1)), 1e-9)
    assert 1e-6 < errors[[0, 2, 3]].min() <= errors.max() < 0.05


@pytest.mark.exhaustive
@pytest.mark.parametrize("samples", [1, 3])
def test_budgets_hold_with_few_samples(samples: int, tmp_path: Any) -> None:
    plain = round_weights(residual, PARAMS, [X], Scheme(3, inputs=None), method="nearest", biases=False)
    budget = size(plain, tmp_path)
    found = round_weights(residual, PARAMS, [X[:samples]], ONE, file_bytes=budget)
    assert 0.9 * budget < size(found, tmp_path) <= budget
    assert error(found.params) <= 1.02 * error(plain.params)


def test_a_budget_is_searched_for_where_sizes_are_steps() -> None:
    for budget in (40, 100, 999, 5000):
        found = within(budget, 1.0, lambda rate: rate, lambda rate: max(40, int(3000 * rate**-0.5) // 10 * 10))
        assert max(40, int(3000 * found**-0.5) // 10 * 10) <= budget
    with pytest.raises(ArgumentError, match=r"the smallest file of .* takes 40 bytes"):
        within(39, 1.0, lambda rate: rate, lambda rate: max(40, int(3000 * rate**-0.5)))


@pytest.mark.parametrize(("options", "said"), [
    ({"rate": 0}, "rate must be a number above 0"),
    ({"rate": 1.0, "method": "adaround"}, "method must be 'gptq'"),
    ({"fisher": PARAMS}, "give rate= with it"),
    ({"file_bytes": 0}, "file_bytes must be a whole number"),
    ({"rate": 1e-4, "scheme": Scheme(4, symmetric=False, inputs=None)}, "'up': a rate needs a symmetric grid"),
])  # fmt: skip
def test_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        round_weights(residual, PARAMS, [X], **{"scheme": ONE, **options})
