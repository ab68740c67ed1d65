"""What is held as integers is cut with its scales and ranked by its values, or refused; never left whole in silence."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError, CallError
from jaxcomp.observe import input_norms
from jaxcomp.posttrain import correct_biases, equalize, ptq, refit, round_weights, smooth, sparsify
from jaxcomp.prune import channels, group_lasso
from jaxcomp.rewrite import (
    Scheme,
    calibrate,
    choose,
    densify,
    factorize,
    fake_quantize,
    fold_batch_norm,
    fold_weights,
    importance,
    mask,
    qat,
    quantize,
    remove_dead,
    shrink,
)
from jaxcomp.search import fall_back, sensitivity
from jaxcomp.trace import groups
from tests.rewrite.lowrank.test_factors import normal

X = normal(5, 12, seed=3)
PARAMS = {
    "in": normal(12, 16, seed=0) * jnp.arange(1, 17.0),  # scales say what codes do not
    "bias": jnp.ones(16),
    "out": normal(16, 6, seed=1).at[3].set(0.0),
}


def mlp(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"]


def _size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _codes(**how: Any) -> tuple[Any, Any]:
    ranges = calibrate(mlp, PARAMS, [(X,)]) if how.get("inputs") == "static" else None
    return quantize(mlp, PARAMS, X, scheme=Scheme(**how), ranges=ranges)


@pytest.mark.parametrize("how", [{"bits": 8}, {"bits": 8, "symmetric": False}, {"bits": 6, "axis": None}])
def test_codes_are_cut_and_ranked_by_their_values(how: Any) -> None:
    function, params = _codes(inputs=None, **how)
    found = groups(function, params, X)
    (group,) = found
    assert {"in/codes", "out/codes"} <= {member.path for member in group.members}
    values = {"in": densify(params)["in"], "bias": PARAMS["bias"], "out": densify(params)["out"]}
    expected = importance(groups(mlp, values, X), values)["in"]
    np.testing.assert_allclose(importance(found, params)[group.name], expected, rtol=1e-6)
    new, small = shrink(function, params, X, keep=choose(0.5))
    assert _size(small) < 0.6 * _size(params)
    ((_, kept),) = new.keep.items()
    masked = mask(groups(mlp, values, X), values, {"in": kept})
    np.testing.assert_allclose(new(small, X), mlp(masked, X), rtol=1e-5, atol=1e-4)
    alive, rest = remove_dead(function, params, X)
    assert rest["out"].parts["codes"].shape == (15 if how.get("symmetric", True) else 16, 6)
    np.testing.assert_allclose(alive(rest, X), function(params, X), rtol=1e-5, atol=1e-4)


REFUSED: dict[str, Any] = {
    "half bytes": {"bits": 4, "inputs": None},
    "levels of a table": {"bits": "nf4", "inputs": None},
    "eight-bit floats": {"bits": "fp8_e4m3", "inputs": None},
    "integer inputs": {"bits": 8, "inputs": "static"},
    "dynamic inputs": {"bits": 8, "inputs": "dynamic"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused(name: str) -> None:
    function, params = _codes(**REFUSED[name])
    for lenient in (False, True):
        with pytest.raises(
            ArgumentError, match=r"can be cut.*shrink the function of floating-point weights|before quantizing"
        ):
            shrink(function, params, X, keep=choose(0.5), lenient=lenient)
    if name == "integer inputs":
        alive, rest = remove_dead(function, params, X)  # codes that are all 0 add nothing to the sums of codes
        assert rest["out"].parts["codes"].shape == (15, 6)
        np.testing.assert_allclose(alive(rest, X), function(params, X), rtol=1e-5, atol=1e-4)
    else:
        with pytest.raises(ArgumentError, match="no channels can be cut"):
            remove_dead(function, params, X)


ON_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "factorize": lambda f, p: factorize(f, p, X, rank=2),
    "fold_batch_norm": lambda f, p: fold_batch_norm(f, p, X),
    "fold_weights": lambda f, p: fold_weights(f, p, X),
    "equalize": lambda f, p: equalize(f, p, X),
    "smooth": lambda f, p: smooth(f, p, [(X,)]),
    "correct_biases": lambda f, p: correct_biases(f, p, [(X,)], p),
    "ptq": lambda f, p: ptq(f, p, [(X,)]),
    "input_norms": lambda f, p: input_norms(f, p, [(X,)]),
    "sparsify": lambda f, p: sparsify(f, p, [(X,)], 0.5),
    "round_weights": lambda f, p: round_weights(f, p, [(X,)], Scheme(4, inputs=None)),
    "refit": lambda f, p: refit(f, p, [(X,)], groups(f, p, X), keep={}),
}


W8 = Scheme(8, inputs=None)
QUANTIZING: dict[str, Callable[..., Any]] = {
    "quantize": lambda f, p, scheme=W8: quantize(f, p, X, scheme=scheme),
    "fake_quantize": lambda f, p, scheme=W8: fake_quantize(f, p, X, scheme=scheme),
    "qat": lambda f, p, scheme=W8: qat(f, p, [(X,)], scheme, weight_grids="fit"),
    "calibrate": lambda f, p: calibrate(f, p, [(X,)]),
    "sensitivity": lambda f, p, scheme=W8: sensitivity(f, p, [(X,)], {"8": scheme}),
    "fall_back": lambda f, p, scheme=W8: fall_back(f, p, [(X,)], lambda f, p: 0.0, drop=0.1, scheme=scheme),
}
CHANNELS = {
    "shrink": lambda f, p: shrink(f, p, X, keep=choose(0.5)),
    "remove_dead": lambda f, p: remove_dead(f, p, X),
}


@pytest.mark.parametrize("name", ON_NUMBERS)
def test_what_works_on_numbers_refuses_codes(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"'in' is held as integer codes.* call {name} before quantize"):
        ON_NUMBERS[name](*_codes(bits=8, inputs=None))


@pytest.mark.parametrize("name", QUANTIZING)
def test_what_is_quantized_is_not_quantized_again(name: str) -> None:
    function, params = _codes(bits=8, inputs=None)
    for how in [()] if name in ("sensitivity", "fall_back", "calibrate") else [(), ([("in", W8)],)]:
        with pytest.raises(ArgumentError, match=r"'in' is held as integer codes already.* matches no weight that is"):
            QUANTIZING[name](function, params, *how)


@pytest.mark.parametrize("name", [*ON_NUMBERS, *QUANTIZING, *CHANNELS])
@pytest.mark.parametrize("maker", ["fake_quantize", "qat"])
def test_what_rounds_its_own_weights_is_no_function_to_rewrite(maker: str, name: str) -> None:
    function, params = QUANTIZING[maker](mlp, PARAMS)
    given = {"refit": groups(mlp, PARAMS, X)}.get(name)
    run = {**ON_NUMBERS, **QUANTIZING, **CHANNELS}[name]
    if given is not None:
        run = lambda f, p: refit(f, p, [(X,)], given, keep={})  # noqa: E731
    for wrapped in (function, jax.jit(function), functools.partial(function)):
        with pytest.raises(
            ArgumentError, match=rf"the function that {maker} returned.*Give {name} the function and parameters that"
        ):
            run(wrapped, params)


@pytest.mark.parametrize("second", ["quantize", "fake_quantize", "qat"])
@pytest.mark.parametrize("first", ["quantize", "fake_quantize", "qat"])
def test_weights_that_are_left_can_be_quantized_after_others(first: str, second: str) -> None:
    expected, _ = fake_quantize(mlp, PARAMS, X, scheme=W8)
    begun = QUANTIZING[first](mlp, PARAMS, [("in", W8)])
    assert not np.allclose(begun[0](begun[1], X), expected(PARAMS, X), rtol=1e-6, atol=0)
    function, params = QUANTIZING[second](*begun)
    np.testing.assert_allclose(jax.jit(function)(params, X), expected(PARAMS, X), rtol=1e-5, atol=1e-4)


def test_packed_weights_want_the_function_that_they_came_with() -> None:
    with pytest.raises(CallError, match=r"hold packed weights: give them with the function .* or .*densify\(params\)"):
        groups(mlp, _codes(bits=8, inputs=None)[1], X)


def test_tables_of_integers_and_masks() -> None:
    def table(p: Any, x: jax.Array) -> jax.Array:
        w = p["codes"].astype(jnp.float32) * p["scale"] * p["mask"]
        return jax.nn.relu(x @ w) @ p["out"]

    codes = jnp.round(127 * PARAMS["in"] / jnp.abs(PARAMS["in"]).max(0)).astype(jnp.int8)
    params = {"codes": codes, "scale": jnp.arange(1, 17.0), "mask": codes > 3, "out": PARAMS["out"]}
    found = groups(table, params, X)
    (group,) = found
    keep = {group.name: np.arange(16) % 2 == 0}
    new, small = shrink(table, params, X, keep=keep)
    assert {name: leaf.shape for name, leaf in small.items()} == {
        "codes": (12, 8), "scale": (8,), "mask": (12, 8), "out": (8, 6),
    }  # fmt: skip
    np.testing.assert_allclose(new(small, X), table(mask(found, params, keep), X), rtol=1e-5, atol=1e-4)
    values = {**params, "codes": params["codes"] * params["scale"] * params["mask"]}
    values |= {"scale": jnp.ones(16), "mask": jnp.ones((12, 16), bool)}
    expected = importance(groups(table, values, X), values)[group.name]
    np.testing.assert_array_equal(np.argsort(importance(found, params)[group.name]), np.argsort(expected))
    for ranked in (lambda *a: channels(a[0], 0.5).init(a[1]), group_lasso):
        with pytest.raises(ArgumentError, match=r"'codes' holds integers of type int8, which rank no channels"):
            ranked(found, params)
    masked = {**params, "codes": codes.astype(jnp.float32)}
    same = groups(table, masked, X)
    assert np.isfinite(importance(same, masked)[group.name]).all()
