"""Bytes give codes back."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.quant.fake import code_range
from jaxcomp.quant.nibbles import from_bytes, to_bytes


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 2, 3)])
def test_bytes_give_codes_back(bits: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    codes = jnp.asarray(rng.integers(*code_range(bits, False), shape, np.int8, endpoint=True))
    held = to_bytes(codes, bits)
    assert held.nbytes == -(-codes.size // (4 if bits == 2 else 2 if bits <= 4 else 1))
    np.testing.assert_array_equal(from_bytes(held, bits, shape), codes)
