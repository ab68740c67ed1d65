"""Products with triangles and symmetric matrices against whole ones, in blocks that divide them and that do not."""

import numpy as np
import pytest

from jaxcomp.core import halves

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 6, 7])
def test_half_the_products_are_enough(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "ROWS", 3)
    square, wanted = RNG.standard_normal((2, size, size)), RNG.standard_normal((2, size, 4))
    matrix, upper = square + square.swapaxes(1, 2), np.triu(square)
    np.testing.assert_allclose(halves.forms(matrix, wanted), np.einsum("gio,gij,gjo->go", wanted, matrix, wanted))
    np.testing.assert_allclose(halves.upper_product(upper, wanted), upper @ wanted)
    np.testing.assert_allclose(halves.upper_product(upper, wanted, turned=True), upper.swapaxes(1, 2) @ wanted)
