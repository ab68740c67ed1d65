"""The exact codebook against dynamic programming over all cuts, written out."""

import jax
import numpy as np
import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.share import optimal


def least(x: np.ndarray, f: np.ndarray, k: int, zero: bool) -> float:
    """The least error of k centers, one of them 0 if ``zero``: all cuts, in float64."""
    order = np.argsort(x)
    x, f = x[order], f[order]
    n = len(x)
    free, fixed = np.full((k + 1, n + 1), np.inf), np.full((k + 1, n + 1), np.inf)
    free[:, 0], fixed[1:, 0] = 0, 0
    for m in range(1, k + 1):
        for j in range(1, n + 1):
            for i in range(j + 1):
                part, weight = x[i:j], f[i:j]
                mean = (weight * part).sum() / max(weight.sum(), 1e-300)
                own, about = (weight * (part - mean) ** 2).sum(), (weight * part**2).sum()
                free[m, j] = min(free[m, j], free[m - 1, i] + own)
                fixed[m, j] = min(fixed[m, j], fixed[m - 1, i] + own, free[m - 1, i] + about)
    return (fixed if zero else free)[k, n]


@pytest.mark.parametrize("zero", [False, True])
def test_no_cut_has_a_smaller_error(rng, zero):
    for _ in range(12):
        n, k = int(rng.integers(1, 14)), int(rng.integers(1, 5))
        x, f = rng.normal(size=n) + 0.5 * rng.normal(), rng.random(n) + 1e-3
        centers = optimal(x, k, importance=f, zero=zero)
        assert len(centers) <= k
        assert not zero or 0 in centers
        assert (f * np.square(x[:, None] - centers).min(1)).sum() == pytest.approx(least(x, f, k, zero), abs=1e-12)


def test_finer_and_finer_cuts_find_what_all_cuts_find(rng, monkeypatch):
    import importlib

    module = importlib.import_module("jaxcomp.share.optimal")
    x = rng.standard_t(3, size=1500)
    monkeypatch.setattr(module, "GROUPS", 2000)
    whole = optimal(x, 9)
    monkeypatch.setattr(module, "GROUPS", 60)
    np.testing.assert_allclose(optimal(x, 9), whole, atol=1e-9)


def test_what_is_wrong_is_said():
    for call, words in (
        (lambda: optimal(np.ones(3), 0), "k is a number of centers"),
        (lambda: optimal(np.array([1.0, np.nan]), 1), "NaN or infinity"),
        (lambda: optimal(np.ones(2), 1, importance=np.array([1.0, -1.0])), "below 0"),
        (lambda: optimal(np.ones(2), 1, importance=np.ones(3)), r"\(2,\), not \(3,\)"),
        (lambda: optimal(np.ones(0), 1), "no weights"),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()
    assert optimal(np.array([2.0, 1.0, 2.0]), 5).tolist() == [1.0, 2.0]


def test_inside_of_jit_it_says_so():
    for given in ("values", "importance"):
        call = lambda x, given=given: optimal(**({"values": np.ones(4), "k": 2} | {given: x}))  # noqa: E731
        with pytest.raises(ArgumentError, match=f"'{given}' is traced.* call optimal outside of jit"):
            jax.jit(call)(np.ones(4))


@pytest.mark.parametrize("values", [1j * np.ones(4), {"w": np.ones(4)}, "abc"])
def test_what_is_no_array_of_real_numbers_is_refused(values):
    with pytest.raises(ArgumentError, match="values must be an array of real numbers, got"):
        optimal(values, 2)


def test_importance_of_nothing_is_that_of_all_alike():
    values = np.array([0.9, 1.1, -2.0, 5.0, 5.0])
    np.testing.assert_array_equal(optimal(values, 3, importance=0 * values), optimal(values, 3))
