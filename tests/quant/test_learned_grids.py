"""Learned scales, offsets, clips and levels: values on their grids, gradients by the papers' formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from jaxcomp import quant
from jaxcomp.core.reproducible import steady_sum
from jaxcomp.quant import clip_quantize, learned_quantize


def gradients(view, x, scale, offset=None):
    """Of a weighted sum, in x, scale (and offset)."""
    factors = jnp.asarray(np.arange(1.0, x.size + 1), jnp.float32)
    zero = jnp.zeros(1, jnp.int32) if offset is None else jnp.float32([offset])

    def loss(x, scale, zero):
        return jnp.sum(factors * view(x, jc.Grid(scale, zero), 3))

    wanted = (0, 1) if offset is None else (0, 1, 2)
    found = jax.grad(loss, wanted)(jnp.asarray(x, jnp.float32), jnp.float32([scale]), zero)
    return np.asarray(factors, np.float64), *found


def test_lsq_has_the_papers_gradients(rng):
    x, s = rng.normal(size=50), 0.37
    factors, to_x, to_s = gradients(learned_quantize, x, s)
    y = x / s
    within = (y > -3) & (y < 3)
    np.testing.assert_allclose(to_x, np.where(within, factors, 0), rtol=1e-6)
    slopes = np.where(within, np.rint(y) - y, np.sign(y) * 3)
    np.testing.assert_allclose(to_s, [(factors * slopes).sum()], rtol=1e-4)


def test_lsq_plus_has_the_papers_gradients(rng):
    """x = bar(x) s + beta, with beta on the grid as 0 must be."""
    x, s, z = rng.normal(size=50), 0.25, 2
    factors, to_x, to_s, to_offset = gradients(learned_quantize, x, s, -z * s)
    y = (x - -z * s) / s
    within = (y > -4) & (y < 3)
    np.testing.assert_allclose(to_x, np.where(within, factors, 0), rtol=1e-6)
    np.testing.assert_allclose(to_offset, [factors[~within].sum()], rtol=1e-5)
    slopes = np.where(within, np.rint(y) - y, np.where(y < 0, -4, 3))
    np.testing.assert_allclose(to_s, [(factors * slopes).sum()], rtol=1e-4)


def test_pact_has_the_papers_gradients(rng):
    x, s = rng.normal(size=50), 0.2
    factors, to_x, to_s = gradients(clip_quantize, x, s)
    beyond = np.abs(x) > 3 * s
    np.testing.assert_allclose(to_x, np.where(beyond, 0, factors), rtol=1e-6)
    np.testing.assert_allclose(to_s / 3, [(factors * beyond * np.sign(x)).sum()], rtol=1e-5)  # alpha = 3 s


def test_gradients_to_the_scale_are_divided_by_the_root_of_weights_and_levels(rng):
    w = jnp.asarray(rng.normal(size=(20, 2)), jnp.float32)
    quant = jc.quant.lsq(3, axis=-1)
    state = quant.init(w)
    np.testing.assert_allclose(state.scale.value, 2 * np.abs(w).mean(0, keepdims=True) / np.sqrt(3), rtol=1e-6)

    def total(scale, view):
        return jnp.sum(view(scale))

    (path, scale), *_ = jc.learned(state).items()
    own = jax.grad(total)(scale, lambda s: quant.apply(w, jc.with_learned(state, {path: s})))
    bare = jax.grad(total)(scale, lambda s: learned_quantize(w, jc.Grid(s, jnp.zeros((1, 2), jnp.int32)), 3))
    np.testing.assert_allclose(own, bare / np.sqrt(20 * 3), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_training_the_grid_lessens_the_error_and_stays_on_a_grid(rng, symmetric):
    w = jnp.asarray(rng.normal(size=200) + 0.5, jnp.float32)
    quant, tx = jc.quant.lsq(2, symmetric=symmetric), optax.adam(0.02)
    state = quant.init(w)

    def error(values):
        return jnp.mean((quant.apply(w, jc.with_learned(state, values)) - w) ** 2)

    @jax.jit
    def step(values, opt_state):
        updates, opt_state = tx.update(jax.grad(error)(values), opt_state)
        return optax.apply_updates(values, updates), opt_state

    values = jc.learned(state)
    start, opt_state = float(error(values)), tx.init(values)
    for _ in range(30):
        values, opt_state = step(values, opt_state)
    assert float(error(values)) < start
    state = jc.with_learned(state, values)
    grid = quant.describe(w, state, 0)[""].grid
    view = np.asarray(quant.apply(w, state), np.float64)
    codes = view / np.asarray(grid.scale, np.float64) + np.asarray(grid.zero_point)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-5)
    assert quant.apply(jnp.zeros(3), state).tolist() == [0, 0, 0]


def test_a_scale_that_training_has_made_negative_counts_as_its_size():
    quant, w = jc.quant.lsq(4), jnp.array([0.5, -1.0])
    state = quant.init(w)
    flipped = jc.with_learned(state, {path: -value for path, value in jc.learned(state).items()})
    np.testing.assert_array_equal(quant.apply(w, flipped), quant.apply(w, state))


def test_ttq_has_the_papers_gradients(rng):
    w, quant = rng.normal(size=40), jc.quant.ttq(0.2)
    given = jnp.asarray(w, jnp.float32)
    state = jc.with_learned(quant.init(given), {"positive": jnp.float32(1.5), "negative": jnp.float32(0.75)})
    factors = np.arange(1.0, 41)

    def loss(w, values):
        return jnp.sum(quant.apply(w, jc.with_learned(state, values)) * jnp.asarray(factors, jnp.float32))

    to_w, to_levels = jax.grad(loss, (0, 1))(given, jc.learned(state))
    limit = 0.2 * np.abs(w).max()
    np.testing.assert_allclose(to_w, factors * np.where(w > limit, 1.5, np.where(w < -limit, 0.75, 1)), rtol=1e-6)
    np.testing.assert_allclose(to_levels["positive"], factors[w > limit].sum(), rtol=1e-6)
    np.testing.assert_allclose(to_levels["negative"], -factors[w < -limit].sum(), rtol=1e-6)
    assert sorted(set(quant.apply(given, state).tolist())) == [-0.75, 0, 1.5]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_dorefa_has_the_papers_formula_and_gradient(rng, bits):
    """tanh(w) / max|tanh(w)|, rounded on levels evenly about 0, with the gradient of what is rounded."""
    w, n = rng.normal(size=(20, 3)).astype(np.float32), 2 ** (bits - 1) - 1
    quant, factors = jc.quant.dorefa(bits), np.arange(1.0, 61).reshape(20, 3)
    state = quant.init(jnp.asarray(w))
    squashed = np.tanh(w.astype(np.float64))
    largest = np.abs(squashed).max()
    np.testing.assert_allclose(quant.apply(jnp.asarray(w), state), np.rint(n * squashed / largest) / n, atol=1e-7)
    slopes = jax.grad(lambda w: jnp.sum(factors * quant.apply(w, state)))(jnp.asarray(w))
    np.testing.assert_allclose(slopes, factors * (1 - squashed**2) / largest, rtol=2e-4, atol=2e-5)


def test_dorefas_weights_run_as_the_integers_they_show(rng):
    w, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 5), (4, 6)))
    quant = jc.partition([("w", jc.quant.dorefa(3))])
    state = quant.init({"w": w})
    view, notes = quant.apply({"w": w}, state), quant.describe({"w": w}, state, 0)

    def layer(params, x):
        return x @ params["w"]

    scheme = jc.rewrite.Scheme(3, axis=None, inputs=None)
    new_fn, small = jc.rewrite.quantize(layer, view, x, scheme=scheme, grids={"w": notes["w"].grid})
    np.testing.assert_array_equal(jc.rewrite.densify(small)["w"], view["w"])
    np.testing.assert_allclose(new_fn(small, x), layer(view, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 9, 2.0, True])
def test_dorefas_bits_are_checked(bits):
    with pytest.raises(jc.errors.JaxcompError, match="2 to 8 bits"):
        jc.quant.dorefa(bits)


def test_what_begins_a_grid_sums_in_one_fixed_order_once():
    """To compile a second such sum, of what is counted exactly in any order, took as long again at every shape."""
    w = jnp.ones((3, 3, 64, 8))
    alone = jax.jit(lambda w: steady_sum(jnp.abs(w), (0, 1, 2))).lower(w).as_text()
    whole = jax.jit(quant.lsq(4, axis=-1).init).lower(w).as_text()
    assert whole.count("stablehlo.slice") == alone.count("stablehlo.slice") > 8
    assert "applies stablehlo.and" not in whole
