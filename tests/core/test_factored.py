"""Factored moments against float64 NumPy: what they solve, and how far they are damped."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.factored import Factored
from jaxcomp.core.quadratic import damped

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("act_order", [True, False])
def test_the_factor_is_that_of_the_inverse(act_order: bool) -> None:
    rows = RNG.standard_normal((2, 90, 30)) * np.exp(RNG.standard_normal((2, 1, 30)))
    moment = np.einsum("gpi,gpj->gij", rows, rows)
    inputs, wanted = Factored.of(moment, 0.01, act_order), RNG.standard_normal((2, 30, 4))
    np.testing.assert_allclose(inputs.moment, damped(jnp.asarray(moment, jnp.float32), 0.01), rtol=1e-6)
    exact = np.linalg.inv(inputs.moment.astype(np.float64))
    np.testing.assert_allclose(inputs.solve(wanted), exact @ wanted, atol=1e-4 * np.abs(exact @ wanted).max())
    for own, order, upper in zip(exact, inputs.order, inputs.upper, strict=True):
        assert (np.diff(np.diagonal(moment[0])[inputs.order[0]]) <= 0).all() == act_order
        np.testing.assert_array_equal(upper, np.triu(upper))
        np.testing.assert_allclose(upper.T @ upper, own[np.ix_(order, order)], atol=1e-4 * np.abs(own).max())


def test_what_cannot_be_factored_is_damped_more() -> None:
    ones = np.ones((1, 40, 40), np.float32)
    inputs = Factored.of(ones, 0.0)
    assert np.isfinite(inputs.upper).all()
    assert 1 + 1e-7 < inputs.moment[0, 0, 0] < 1.2
    np.testing.assert_array_equal(Factored.of(0 * ones, 0.01, True).moment[0], np.eye(40))


@pytest.mark.parametrize("damping", [0, 0.5])
def test_weights_make_up_for_inputs_that_changed(damping: float) -> None:
    before = RNG.standard_normal((6, 50))
    now = before + 0.3 * RNG.standard_normal((6, 50))
    weight, moment = RNG.standard_normal((6, 2)), now @ now.T
    new = weight + Factored.of(moment[None], damping).solve((now @ (before - now).T @ weight)[None])[0]
    held = damping * np.trace(moment) / 6 * np.eye(6)
    ridge = np.linalg.solve(moment + held, (now @ before.T + held) @ weight)
    np.testing.assert_allclose(new, ridge, atol=1e-4)
