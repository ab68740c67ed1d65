"""Where parameters are ranked, corrected or measured beside a site, they count as the site reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxcomp as jc
from jaxcomp.rewrite.folding.effective import as_read
from jaxcomp.trace.ir import trace
from jaxcomp.trace.scaled import with_factors
from jaxcomp.trace.uses import uses_of

X = jax.random.normal(jax.random.key(0), (64, 6)) + 1
MASK = np.tile([[1.0, 0.0], [1.0, 1.0]], (3, 4)).astype(np.float32)
GAINS = jnp.array([0.5, 2.0])


def standardized(w):
    return (w - w.mean(0)) / (w.std(0) + 1e-5)


# What stands between the parameter and its site: the same function of a plain weight.
BETWEEN = {
    "tenth": lambda w: w * 0.1,
    "root": lambda w: w / np.sqrt(6),
    "minus": lambda w: -w,
    "transposed": lambda w: (w.T * 3.0).T,
    "reshaped": lambda w: (w.reshape(2, 3, 8) * 0.1).reshape(6, 8),
    "cast": lambda w: (w.astype(jnp.bfloat16) * jnp.bfloat16(0.5)).astype(jnp.float32),
    "masked": lambda w: w * MASK,
    "standardized": standardized,
    "masked_and_scaled": lambda w: w * MASK * -0.1,
}


def params_of():
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        "up": 5 * jax.random.normal(keys[0], (6, 8)),
        "bias": jnp.zeros(8),
        "down": jax.random.normal(keys[1], (8, 3)),
    }


def network(between):
    return lambda p, x: jax.nn.relu(x @ between(p["up"]) + p["bias"]) @ p["down"]


PLAIN = network(lambda w: w)


@pytest.mark.parametrize("name", BETWEEN)
def test_as_read_is_what_the_plain_function_has(name):
    params = params_of()
    read = as_read(trace(network(BETWEEN[name]), params, X), params)
    rtol = 1e-2 if name == "cast" else 1e-5  # what casts round is not followed
    np.testing.assert_allclose(np.abs(read["up"]), np.abs(BETWEEN[name](params["up"])), rtol=rtol, atol=1e-6)
    np.testing.assert_array_equal(read["down"], params["down"])
    assert read["down"] is params["down"]


@pytest.mark.parametrize("name", ["tenth", "masked_and_scaled", "standardized"])
def test_importance(name):
    params = params_of()
    plain = params | {"up": BETWEEN[name](params["up"])}
    options = {"normalize": "none", "combine": "sum"}
    mine = jc.rewrite.importance(jc.trace.groups(network(BETWEEN[name]), params, X), params, **options)
    theirs = jc.rewrite.importance(jc.trace.groups(PLAIN, plain, X), plain, **options)
    np.testing.assert_allclose(mine["up"], theirs["up"], rtol=1e-5)


@pytest.mark.parametrize("name", ["tenth", "minus", "transposed"])
def test_biases(name):
    params = params_of()
    changed = params | {"up": jnp.round(params["up"])}
    function = network(BETWEEN[name])
    mine = jc.posttrain.correct_biases(function, params, [X], changed, method="fast").params
    plain, plain_changed = (p | {"up": BETWEEN[name](p["up"])} for p in (params, changed))
    theirs = jc.posttrain.correct_biases(PLAIN, plain, [X], plain_changed, method="fast").params
    np.testing.assert_allclose(mine["bias"], theirs["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_global_distribution(method):
    params = params_of()
    function, options = network(BETWEEN["tenth"]), {"method": method, "distribution": "global"}
    mine = jc.posttrain.sparsify(function, params, [X], 0.5, **options)
    plain = params | {"up": 0.1 * params["up"]}
    theirs = jc.posttrain.sparsify(PLAIN, plain, [X], 0.5, **options)
    assert [row.reached for row in mine.report.rows] == [row.reached for row in theirs.report.rows]
    np.testing.assert_array_equal(mine.masks["up"], theirs.masks["up"])


def test_input_norms():
    params = params_of()
    mine = jc.observe.input_norms(network(BETWEEN["tenth"]), params, [X])
    theirs = jc.observe.input_norms(PLAIN, params | {"up": 0.1 * params["up"]}, [X])
    np.testing.assert_allclose(mine["up"], 0.1 * theirs["up"], rtol=1e-5)


def test_equalized():
    params = params_of()
    new = jc.posttrain.equalize(network(BETWEEN["tenth"]), params, X, rounds=1, scheme=None).params
    made, read = jnp.abs(0.1 * new["up"]).max(0), jnp.abs(new["down"]).max(1)
    np.testing.assert_allclose(made, read, rtol=1e-4)


def test_sites_of_unlike_factors_weigh_as_they_read():
    """A weight read twice, once times 10: least squares listens to what is read times 10."""

    def twice(p, x):
        return jnp.concatenate([x[:, :6] @ p["w"], x[:, 6:] @ (p["w"] * 10)], axis=0)

    x = jax.random.normal(jax.random.key(2), (512, 12))
    rows = jnp.concatenate([x[:, :6], 10 * x[:, 6:]])
    params = {"w": jax.random.normal(jax.random.key(3), (6, 4))}
    options = {"method": "obc", "reference": "dense"}
    mine = jc.posttrain.sparsify(twice, params, [x], 0.5, **options)
    theirs = jc.posttrain.sparsify(lambda p, x: x @ p["w"], params, [rows], 0.5, **options)
    np.testing.assert_allclose(mine.params["w"], theirs.params["w"], rtol=1e-3, atol=1e-4)


def test_gains_of_layers_in_a_scan_and_numbers_that_are_parameters():
    def scanned(p, x):
        step = lambda x, layer: (jnp.tanh(x @ (layer[0] * layer[1])), None)  # noqa: E731
        return lax.scan(step, x, (p["w"], p["gain"]))[0] @ (p["head"] / p["temperature"])

    params = {"w": jnp.ones((2, 6, 6)), "gain": GAINS, "head": jnp.ones((6, 2)), "temperature": jnp.array(4.0)}
    program = trace(scanned, params, X)
    uses = with_factors(program, uses_of(program), jax.tree.leaves(params))
    np.testing.assert_array_equal(uses["w"].sites[0].factor, GAINS)
    assert uses["head"].sites[0].factor == 0.25
    np.testing.assert_array_equal(as_read(program, params)["w"], params["w"] * GAINS[:, None, None])
    norms = jc.observe.input_norms(scanned, params, [X])["w"]
    first = np.sqrt(np.sum(np.square(X), axis=0))
    np.testing.assert_allclose(np.ravel(norms[0]), 0.5 * first, rtol=1e-5)
