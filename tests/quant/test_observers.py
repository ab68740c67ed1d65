"""Ranges chosen from histograms are the best of their kind; bytes give codes back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.quant.fake import code_range
from jaxcomp.quant.nibbles import from_bytes, to_bytes
from jaxcomp.quant.observers import mse_range, percentile_range, range_grid


def error(values: np.ndarray, high: float, bits: int) -> float:
    """The mean square by which symmetric codes of a range miss values."""
    top = 2 ** (bits - 1) - 1
    scale = high / top
    return float(np.mean((values - np.clip(np.round(values / scale), -top, top) * scale) ** 2))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_range_is_the_best_there_is(bits: int, rng: np.random.Generator) -> None:
    values = rng.standard_t(4, 20_000)
    reach = np.abs(values).max()
    counts, _ = np.histogram(values, 4096, (-reach, reach))
    low, high = mse_range(counts, np.float64(-reach), np.float64(reach), bits, symmetric=True)
    assert low == -high
    best = min(error(values, share * reach, bits) for share in np.arange(0.01, 1.001, 0.01))
    assert error(values, float(high), bits) <= best * 1.01
    assert error(values, float(high), bits) <= error(values, reach, bits)


@pytest.mark.parametrize("percentile", [90, 99, 99.9, 100])
def test_percentiles_are_those_of_numpy(percentile: float, rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 5000)) + np.array([[0], [1], [5]])
    ends = values.min(), values.max()
    counts = np.stack([np.histogram(row, 2048, ends)[0] for row in values])
    low, high = percentile_range(counts, *(np.full(3, end) for end in ends), percentile)
    width = (ends[1] - ends[0]) / 2048
    np.testing.assert_allclose(low, np.minimum(np.percentile(values, 100 - percentile, axis=1), 0), atol=2 * width)
    np.testing.assert_allclose(high, np.percentile(values, percentile, axis=1), atol=2 * width)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_of_layers_has_a_grid_each(symmetric: bool) -> None:
    low, high = np.array([-1.0, 0.0, -3.0]), np.array([2.0, 1.0, 0.0])
    grid = range_grid(low, high, 4, symmetric)
    bottom, top = code_range(4, symmetric)
    assert grid.scale.shape == (3,)
    ends = [(code - np.asarray(grid.zero_point)) * np.asarray(grid.scale) for code in (bottom, top)]
    half = np.asarray(grid.scale) / 2 + 1e-6
    assert (ends[0] <= low + half).all()
    assert (ends[1] >= high - half).all()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 2, 3)])
def test_bytes_give_codes_back(bits: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    codes = jnp.asarray(rng.integers(*code_range(bits, False), shape, np.int8, endpoint=True))
    held = to_bytes(codes, bits)
    assert held.nbytes == -(-codes.size // (4 if bits == 2 else 2 if bits <= 4 else 1))
    np.testing.assert_array_equal(from_bytes(held, bits, shape), codes)
