"""Binary and ternary weights by the papers' formulas, their gradients, and what has been pruned before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.quant import approximate_sign, binary, fake, ternary

QUANTISERS = {
    "int1": lambda: fake(1, axis=-1),
    "int2 affine": lambda: fake(2, symmetric=False),
    "nf4 in blocks": lambda: fake("nf4", block=8),
    "fp4 in blocks": lambda: fake("fp4_e2m1", block=8),
    "fp8": lambda: fake("fp8_e5m2"),
    "apot": lambda: fake("apot4", fit=jc.quant.mse(5)),
    "binary": lambda: binary(axis=-1),
    "balanced": lambda: binary(balanced=True),
    "ternary": ternary,
    "ttq": jc.quant.ttq,
    "lsq": lambda: jc.quant.lsq(2),
    "lsq+": lambda: jc.quant.lsq(2, symmetric=False),
    "pact": lambda: jc.quant.pact(3),
}


@pytest.mark.parametrize("make", QUANTISERS.values(), ids=QUANTISERS.keys())
def test_what_is_pruned_stays_pruned_through_every_quantizer(rng, make):
    w = jnp.asarray(np.where(rng.random((12, 4)) < 0.7, 0, rng.normal(size=(12, 4))), jnp.float32)
    quant = make()
    view = np.asarray(quant.apply(w, quant.init(w)))
    assert (view[np.asarray(w) == 0] == 0).all()
    assert (view != 0).any()


def test_xnor_scales_are_the_least_squares_ones(rng):
    w = rng.normal(size=(30, 3))
    quant = binary(axis=-1)
    view = quant.apply(jnp.asarray(w, jnp.float32), quant.init(jnp.asarray(w, jnp.float32)))
    np.testing.assert_allclose(view, np.sign(w) * np.abs(w).mean(0), rtol=1e-5)


def test_balanced_signs_are_half_negative_and_scaled_by_powers_of_two(rng):
    w = rng.normal(size=(400, 2)) * 0.3 + 0.05
    given, quant = jnp.asarray(w, jnp.float32), binary(balanced=True, axis=-1)
    view = np.asarray(quant.apply(given, quant.init(given)))
    centered = w - w.mean(0)
    np.testing.assert_array_equal(view, np.sign(centered) * 2.0 ** np.rint(np.log2(np.abs(centered).mean(0))))
    assert np.abs((view > 0).mean(0) - 0.5).max() < 0.05


def test_sign_estimators_have_their_slopes():
    w = jnp.array([-1.5, -0.75, -0.25, 0.5, 2.0])
    for slope, wanted in ((jc.quant.clipped, [0, 1, 1, 1, 0]), (approximate_sign, [0, 0.5, 1.5, 1, 0])):
        quant = binary(slope=slope)
        grads = jax.grad(lambda w, q=quant: q.apply(w, q.init(jnp.ones(2) * 0.5)).sum())(w)
        np.testing.assert_allclose(grads, 0.5 * np.asarray(wanted))
        np.testing.assert_allclose(jax.grad(lambda x, s=slope: jc.quant.sign(x, s).sum())(w), wanted)


@pytest.mark.parametrize("axis", [None, -1])
def test_ternary_weights_are_the_papers(rng, axis):
    w = rng.normal(size=(50, 3))
    given, quant = jnp.asarray(w, jnp.float32), ternary(axis=axis)
    kept = 0 if axis == -1 else None
    limit = 0.7 * np.abs(w).mean(kept, keepdims=True)
    beyond = np.abs(w) > limit
    scale = (np.abs(w) * beyond).sum(kept, keepdims=True) / beyond.sum(kept, keepdims=True)
    state = quant.init(given)
    np.testing.assert_allclose(quant.apply(given, state), np.sign(w) * beyond * scale, rtol=1e-5)
    np.testing.assert_array_equal(jax.grad(lambda w: quant.apply(w, state).sum())(given), np.ones(w.shape))


def test_other_settings_are_refused():
    with pytest.raises(ArgumentError, match="balanced signs have a mean"):
        binary(balanced=True, block=8)
    for make in (ternary, jc.quant.ttq):
        with pytest.raises(ArgumentError, match=r"threshold .* in \(0, 1\), got 1.5"):
            make(threshold=1.5)


def test_the_annealed_slope_is_ir_nets(rng):
    x = rng.normal(size=50)
    for progress in (0.0, 0.3, 1.0):
        t = 0.1 * 100**progress
        expected = max(1 / t, 1) * t * (1 - np.tanh(t * x) ** 2)
        found = jax.jit(lambda x, p: jc.quant.annealed(p)(x))(jnp.asarray(x, jnp.float32), progress)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ArgumentError, match="annealed needs 0 < first <= last, got 0 and 10"):
        jc.quant.annealed(0.5, 0, 10)
