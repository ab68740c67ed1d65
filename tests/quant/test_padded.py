"""Numbers and matrices padded to common sizes: rounded as they are alone; few sizes for many shapes."""

import jax.numpy as jnp
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import integer
from jaxcomp.quant.padded import LENGTHS, common, on_grid, padded, power

FORMAT = integer(4)


def test_numbers_are_rounded_as_tensors_are() -> None:
    values = np.random.default_rng(0).standard_normal((3, 1500)).astype(np.float32)
    scale, zero = np.full_like(values, 0.1), np.zeros(values.shape, np.int32)
    whole = fake_quantize(jnp.asarray(values), Grid(jnp.float32([[0.1]]), jnp.zeros((1, 1), int)), FORMAT)
    np.testing.assert_array_equal(on_grid(values, scale, zero, FORMAT), whole)


def test_sizes_are_few() -> None:
    assert {common(size, (8, 64)) for size in range(1, 300)} == {8, 64}
    assert common(10**8, LENGTHS) == LENGTHS[-1]
    assert [power(size) for size in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 16]
    np.testing.assert_array_equal(padded(np.ones((1, 2)), (2, 3), 7), [[1, 1, 7], [7, 7, 7]])
