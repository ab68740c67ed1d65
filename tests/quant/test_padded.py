"""Numbers and matrices padded to common sizes: rounded as they are alone; few sizes for many shapes."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import integer
from jaxcomp.quant.padded import LENGTHS, between, common, on_grid, padded, power
from jaxcomp.quant.ranges import grid_between

FORMAT = integer(4)


def test_numbers_are_rounded_as_tensors_are() -> None:
    values = np.random.default_rng(0).standard_normal((3, 1500)).astype(np.float32)
    scale, zero = np.full_like(values, 0.1), np.zeros(values.shape, np.int32)
    whole = fake_quantize(jnp.asarray(values), Grid(jnp.float32([[0.1]]), jnp.zeros((1, 1), int)), FORMAT)
    np.testing.assert_array_equal(on_grid(values, scale, zero, FORMAT), whole)


def test_grids_span_ends_as_they_do_alone() -> None:
    low = -np.abs(np.random.default_rng(0).standard_normal((1, 5000))).astype(np.float32)
    low[0, :2] = 0
    high = np.roll(-low, 1, 1) * (np.arange(5000) > 1)
    for format in (FORMAT, integer(8, symmetric=False)):
        found, wanted = between(low, high, format, 0.5), grid_between(jnp.asarray(low), jnp.asarray(high), format, 0.5)
        np.testing.assert_array_equal(found.scale, wanted.scale)
        np.testing.assert_array_equal(found.zero_point, wanted.zero_point)


def test_sizes_are_few() -> None:
    assert {common(size, (8, 64)) for size in range(1, 300)} == {8, 64}
    assert common(10**8, LENGTHS) == LENGTHS[-1]
    assert [power(size) for size in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]
    np.testing.assert_array_equal(padded(np.ones((1, 2)), (2, 3), 7), [[1, 1, 7], [7, 7, 7]])
