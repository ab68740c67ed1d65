"""Ranges against float64 searches and NumPy's own quantiles; histograms as their values repeated."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcomp as jc
from jaxcomp.core.errors import ArgumentError
from jaxcomp.quant import (
    deviations,
    entropy,
    fit_grid,
    grid_between,
    histogram,
    integer,
    min_max,
    mse,
    named,
    percentile,
)
from jaxcomp.quant.granularity import ScaleGroups


def nearest(x, format, scale, zero_point=0.0):
    """Rounded to a grid, by distances."""
    levels = (np.asarray(format.levels) - zero_point) * scale
    return levels[np.abs(x[..., None] - levels).argmin(-1)]


@pytest.mark.parametrize("name", ["int2", "int4", "int4_affine", "nf4", "fp8_e4m3"])
def test_mse_is_the_best_of_its_ratios(rng, name):
    w, format = rng.standard_t(3, (200, 2)), named(name)
    grid = fit_grid(jnp.asarray(w, jnp.float32), format, -1, fit=mse(20))
    for column, scale, zero in zip(w.T, grid.scale[0], grid.zero_point[0], strict=True):
        errors = []
        for ratio in np.arange(1, 21) / 20:
            low, high = min(column.min(), 0) * ratio, max(column.max(), 0) * ratio
            if format.affine:
                own = (high - low) / 15
                shift = -8 + np.rint(-low / own)
            else:
                own, shift = max(-low, high) / format.levels[-1], 0
            errors.append(np.square(nearest(column, format, own, shift) - column).sum())
        reached = np.square(nearest(column, format, float(scale), float(zero)) - column).sum()
        np.testing.assert_allclose(reached, min(errors), rtol=1e-4)


@pytest.mark.parametrize("fraction", [0.6, 0.9, 0.999, 1.0])
def test_percentiles_are_numpys(rng, fraction):
    x = rng.normal(size=(101, 3)).astype(np.float32) + np.float32([0, 5, -5])
    laid = ScaleGroups(jnp.asarray(x), (0,))

    def quantile(values):
        return np.quantile(values, fraction, axis=0, method="inverted_cdf")

    low, high = percentile(fraction)(laid, integer(8))
    np.testing.assert_array_equal(high[0], quantile(np.abs(x)))
    np.testing.assert_array_equal(low, -high)
    low, high = percentile(fraction)(laid, integer(8, symmetric=False))
    np.testing.assert_array_equal(high[0], np.maximum(quantile(x), 0))
    np.testing.assert_array_equal(low[0], np.minimum(-quantile(-x), 0))


@pytest.mark.parametrize("fit", [min_max(), mse(10), percentile(0.75), deviations()], ids=["ends", "mse", "0.75", "3s"])
def test_a_histogram_is_its_values_repeated(rng, fit):
    counts = rng.integers(0, 9, 32)
    edges = jnp.asarray(np.arange(33) / 4 - 3, jnp.float32)
    middles = np.repeat(np.arange(32) / 4 - 2.875, counts)
    for format in (integer(4), integer(4, symmetric=False)):
        got = fit(histogram(edges, jnp.asarray(counts)), format)
        wanted = fit(ScaleGroups(jnp.asarray(middles, jnp.float32), (0,)), format)
        np.testing.assert_allclose(np.ravel(got), np.ravel(wanted), rtol=1e-5)


@pytest.mark.parametrize("name", ["int8", "int4", "int4_affine"])
@pytest.mark.parametrize("outliers", [0, 3])
def test_entropy_is_the_least_divergence_of_its_ratios(rng, name, outliers):
    format = named(name)
    x = np.concatenate([np.abs(rng.normal(size=20_000)), np.full(outliers, 40.0)])
    counts, edges = np.histogram(x, 2048, (0, x.max()))
    middles = (edges[1:] + edges[:-1]) / 2
    seen = middles[counts > 0]
    divergences = []
    for ratio in np.arange(20, 0, -1) / 20:
        high = seen.max() * ratio
        inside = middles <= high
        scale = high / (15 if format.affine else format.levels[-1])
        lowest = 8 if format.affine else 0
        codes = np.clip(np.rint(middles / scale) - lowest, format.bottom, format.top)
        held, p, q = np.where(inside, counts, 0).astype(float), None, np.zeros(len(counts))
        for code in np.unique(codes):
            own = (codes == code) & (held > 0)
            q[own] = held[own].sum() / max(own.sum(), 1)
        p = held.copy()
        p[np.flatnonzero(inside)[-1]] += counts[~inside].sum()
        p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-4 / len(counts))
        there = p > 0
        lost = np.sum(p[there] * np.log(p[there] / q[there]))
        enough = inside.sum() >= format.top - format.bottom + 1
        divergences.append(lost if enough else np.inf)
    ends = entropy(20)(histogram(jnp.asarray(edges, jnp.float32), jnp.asarray(counts)), format)
    high = ends[1].item()
    reached = divergences[round(20 - 20 * high / seen.max())]
    np.testing.assert_allclose(reached, min(divergences), rtol=1e-3)
    assert high < 10
    with pytest.raises(ArgumentError, match="needs a histogram"):
        entropy()(ScaleGroups(jnp.asarray(x, jnp.float32), (0,)), format)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ranges_that_are_not_finite_are_refused_at_their_path(bad):
    for quant in (jc.quant.fake(8), jc.quant.lsq(4), jc.quant.binary(), jc.quant.ternary(), jc.quant.ttq()):
        with pytest.raises(ArgumentError, match=r"fc/kernel: .*NaN or infinity"):
            quant.init({"fc": {"kernel": jnp.array([1.0, bad])}})
    with pytest.raises(ArgumentError, match="not finite"):
        grid_between(jnp.float32(-1), jnp.float32(bad), integer(8))


def test_other_settings_are_refused():
    with pytest.raises(ArgumentError, match=r"0.999, not 99.9"):
        percentile(99.9)
    with pytest.raises(ArgumentError, match="whole number of steps"):
        mse(0)
