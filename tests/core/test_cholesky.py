"""Cholesky's factorization by blocks: what NumPy computes in float64, and not finite where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcomp.core.cholesky import BLOCK, WIDE, cholesky

RNG = np.random.default_rng(0)


def definite(*shape: int) -> np.ndarray:
    """Positive definite, with eigenvalues over five decades."""
    rows = RNG.standard_normal((*shape, 2 * shape[-1])) * np.exp(2 * RNG.standard_normal((*shape, 1)))
    return rows @ rows.swapaxes(-1, -2) / shape[-1]


# One block, several that are not full, several takes, groups, and no group at all.
@pytest.mark.parametrize("shape", [(33,), (2, BLOCK + 5), (1, WIDE + BLOCK + 1), (3, 4)])
def test_the_factor_is_that_of_float64(shape: tuple[int, ...]) -> None:
    matrix = definite(*shape)
    found = np.asarray(jax.jit(cholesky)(jnp.asarray(matrix, jnp.float32)), np.float64)
    assert not np.triu(found, 1).any()
    size = np.sqrt(np.diagonal(matrix, axis1=-2, axis2=-1))
    wanted = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(found / size[..., None], wanted / size[..., None], atol=3e-5)
    np.testing.assert_allclose(
        found @ found.swapaxes(-1, -2) / size[..., None] / size[..., None, :],
        matrix / size[..., None] / size[..., None, :],
        atol=3e-6,
    )


@pytest.mark.parametrize("size", [8, BLOCK + 5])
def test_what_is_not_positive_definite_has_no_finite_factor(size: int) -> None:
    matrix = definite(2, size)
    matrix[1, -3, -3] = -1
    finite = np.isfinite(np.asarray(cholesky(jnp.asarray(matrix, jnp.float32)))).reshape(2, -1).all(1)
    assert finite.tolist() == [True, False]
