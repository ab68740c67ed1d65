"""Counts of fractions are exact, in Python and in a traced program."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.counts import kept_count

SIZES = [0, 1, 2, 3, 7, 255, 256, 257, 1000, 2**16 - 1, 25_000_000, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 3, 2**32 - 1]


def exact_kept_count(sparsity: float, size: int) -> int:
    """In whole 2**-24ths of the size, by Python's unbounded fractions; halves are pruned."""
    steps = min(max(round(Fraction(sparsity) * 2**24), 0), 2**24 - 1)
    pruned = (Fraction(steps, 2**24) * size + Fraction(1, 2)).__floor__()
    return max(size - pruned, min(size, 1))


@pytest.mark.parametrize("size", SIZES)
def test_kept_count_of_arrays_is_exact(size, rng):
    fractions = np.float32([0, 2**-24, 2**-25, 0.1, 1 / 3, 0.5, 0.9, 0.95, 1 - 2**-24, 1, -0.5, 7, *rng.random(40)])
    counts = jax.vmap(lambda sparsity: kept_count(sparsity, size))(jnp.asarray(fractions))
    assert counts.dtype == jnp.uint32
    assert counts.tolist() == [exact_kept_count(float(s), size) for s in fractions]
    assert int(kept_count(jnp.float32(0.9), size)) == exact_kept_count(float(np.float32(0.9)), size)


@pytest.mark.parametrize("size", SIZES)
def test_kept_count_of_floats_is_counted_in_float64(size):
    for sparsity in (0, 0.0, 0.1, 1 / 3, 0.5, 0.9, 0.999999):
        count = kept_count(sparsity, size)
        assert isinstance(count, int)
        assert count == max(size - round(sparsity * size), min(size, 1))
