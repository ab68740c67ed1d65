"""Code lengths that are chosen by are those that files take."""

import numpy as np

from jaxcomp.pack import coding, entropy
from jaxcomp.pack.lengths import code_lengths


def test_they_sum_up_to_what_the_coder_takes() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.gamma(1.0, 1.0, (1, 64)) * rng.gamma(2.0, 0.5, (3, 3, 32, 1))
    codes = np.rint(rng.standard_normal((3, 3, 32, 64)) * sizes).astype(np.int64)
    low, high = int(codes.min()), int(codes.max())
    found = code_lengths(codes, low, high)
    numbers = entropy.Numbers(low, high, coding.mean_of(codes))
    taken = 8 * entropy.ideal_bytes(codes.shape, codes.reshape(-1).__getitem__, numbers)
    assert 0.95 * taken < found.of(codes).sum() < taken  # they have counted what the coder is yet to see
    np.testing.assert_allclose(np.sum(2.0**-found.bits, axis=1), 1, rtol=1e-3)


def test_codes_that_never_came_are_dear() -> None:
    found = code_lengths(np.random.default_rng(0).integers(0, 2, (64, 16)), -3, 3)
    bits = found.bits[found.which[40, 0]]
    assert bits[0] > 6
    assert bits[3:5].max() < 1.2
