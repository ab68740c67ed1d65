"""Numbers among the parameters, Python's and NumPy's, are what arrays of them are; what is no number is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.arrays import as_arrays
from jaxcomp.core.errors import ArgumentError
from jaxcomp.rewrite import Scheme

from .compressors import COMPRESSORS

RNG = np.random.default_rng(0)
X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
CHEAP = ("identity", "magnitude-layer", "partition", "quant-lsq")


def kept_numbers():
    return {
        "up": RNG.normal(size=(4, 6)),
        "down": RNG.normal(size=(6, 2)).astype(np.float32),
        "bias": RNG.normal(size=6),
        "gain": 2.0,
        "shift": 1,
        "on": True,
        "half": np.float64(0.5),
        "third": np.float32(3),
        "steps": np.int64(3),
    }


def network(p, x):
    hidden = jax.nn.relu(x @ p["up"] * p["gain"] + p["bias"]) * p["half"]
    return (hidden @ p["down"] + p["shift"]) * p["third"] * p["on"]


def test_of_arrays():
    arrays = as_arrays(kept_numbers())
    assert {leaf.dtype.name for leaf in arrays.values()} == {"float32", "int32", "bool"}
    assert as_arrays(arrays)["up"] is arrays["up"]


@pytest.mark.parametrize("wrong", ["text", object(), np.array(["text"]), 2**70, len])
def test_what_is_no_number_is_named(wrong):
    with pytest.raises(ArgumentError, match="inner/odd"):
        jc.rewrite.fold_weights(lambda p, x: x @ p["w"], {"w": jnp.eye(4), "inner": {"odd": wrong}}, X)


WEIGHTS = {"scheme": Scheme(8, inputs=None)}
REWRITES = {
    "fold_batch_norm": lambda f, p: jc.rewrite.fold_batch_norm(f, p, X),
    "fold_weights": lambda f, p: jc.rewrite.fold_weights(f, p, X),
    "shrink": lambda f, p: jc.rewrite.shrink(f, p, X, keep=jc.rewrite.choose(0.5)),
    "remove_dead": lambda f, p: jc.rewrite.remove_dead(f, p, X),
    "factorize": lambda f, p: jc.rewrite.factorize(f, p, X, energy=0.9, batches=[X]),
    "quantize": lambda f, p: jc.rewrite.quantize(f, p, X, **WEIGHTS),
    "fake_quantize": lambda f, p: jc.rewrite.fake_quantize(f, p, X, **WEIGHTS),
    "qat": lambda f, p: jc.rewrite.qat(f, p, [X], weight_grids="fit", input_grids="average"),
    "ptq": lambda f, p: jc.posttrain.ptq(f, p, [X])[:2],
    "round_weights": lambda f, p: (f, jc.posttrain.round_weights(f, p, [X], **WEIGHTS).params),
    "sparsify": lambda f, p: (f, jc.posttrain.sparsify(f, p, [X], 0.5, method="wanda").params),
    "equalize": lambda f, p: (f, jc.posttrain.equalize(f, p, X, scheme=None).params),
    "smooth": lambda f, p: (f, jc.posttrain.smooth(f, p, [X], scheme=None).params),
    "correct_biases": lambda f, p: (f, jc.posttrain.correct_biases(f, p, [X], p, method="fast").params),
    "refit": lambda f, p: (f, jc.posttrain.refit(f, p, [X], jc.trace.groups(f, p, X), {})),
}
EXACT = ("fold_batch_norm", "fold_weights", "remove_dead", "equalize", "smooth", "correct_biases")
SLOW = ("ptq", "round_weights", "qat", "sparsify", "smooth", "correct_biases", "fake_quantize")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] * (name in SLOW)) for name in REWRITES]
)
def test_rewrites_take_them(name):
    numbers = kept_numbers()
    mine, theirs = (REWRITES[name](network, tree) for tree in (numbers, jax.tree.map(jnp.asarray, numbers)))
    outs = [np.asarray(function(params, X)) for function, params in (mine, theirs)]
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-5)
    if name in EXACT:
        np.testing.assert_allclose(outs[0], network(numbers, X), rtol=1e-5, atol=1e-5)
    if name in ("shrink", "quantize", "factorize"):  # the numbers themselves, given back to it
        held = {path: numbers[path] if np.ndim(numbers[path]) == 0 else leaf for path, leaf in mine[1].items()}
        np.testing.assert_allclose(mine[0](held, X), outs[0], rtol=1e-5, atol=1e-5)


def test_statistics_may_be_numbers():
    move = lambda stats, x: {"mean": 0.9 * stats["mean"] + 0.1 * x.mean(), "count": stats["count"]}  # noqa: E731
    new = jc.posttrain.recalibrate(move, {"mean": 7.0, "count": 3}, [jnp.array([1.0, 2.0])])
    assert new["mean"] == pytest.approx(1.5, abs=1e-5)
    assert int(new["count"]) == 3


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] * (name not in CHEAP)) for name in COMPRESSORS]
)
def test_views_take_them(name):
    numbers = {"bias": RNG.normal(size=5), "kernel": RNG.normal(size=(2, 2, 4, 3)), "gain": 2.0, "n": np.int64(3)}
    shown = []
    for tree in (numbers, jax.tree.map(jnp.asarray, numbers)):
        compressor = COMPRESSORS[name]()
        state = compressor.update(tree, compressor.init(tree), 1)
        shown.append(compressor.apply(tree, state))
        compressor.describe(tree, state, 1)
    jax.tree.map(np.testing.assert_array_equal, *shown)
