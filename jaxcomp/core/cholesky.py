r"""Cholesky factors of large matrices on CPUs: products of blocks, where LAPACK under XLA takes eight times as long."""

import jax
import jax.numpy as jnp
from jax import Array, lax

BLOCK = 128
"""Columns that are factored row by row, once what all columns before them take away is gone."""
WIDE = 512
"""Columns whose part is taken away at once."""
SMALL = 32
"""Up to so many rows LAPACK is as fast."""


@jax.jit
def cholesky(matrix: Array) -> Array:
    r"""Factors :math:`A = L L^\top` with L lower triangular; not finite where A is not positive definite.

    Args:
      matrix: A ``[..., n, n]``, symmetric.

    Returns:
      L ``[..., n, n]``.

    Example:
      >>> cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
      [[2.0, 0.0], [1.0, 2.0]]

    Reference: Golub and Van Loan, Matrix computations, 2013, 4.2.
    """
    if matrix.shape[-1] <= SMALL:
        return jnp.linalg.cholesky(matrix)
    whole = matrix.reshape(-1, *matrix.shape[-2:])
    found = lax.platform_dependent(whole, cpu=_blocked, default=jnp.linalg.cholesky)
    return found.reshape(matrix.shape)


def product(one: Array, other: Array) -> Array:
    """Multiplies the matrices of each group, ``one [groups, m, k]`` by ``other [groups, k, n]``, in full precision."""
    if len(one) == 1:  # without a batch axis XLA:CPU is twice as fast
        return jnp.matmul(one[0], other[0], precision="highest")[None]
    return jnp.matmul(one, other, precision="highest")


def _blocked(matrix: Array) -> Array:
    size = matrix.shape[-1]
    block = min(BLOCK, size)
    length = -(-size // block) * block
    wide, beyond = min(WIDE, length), (0, length - size)
    outside = jnp.arange(length) >= size
    matrix = jnp.pad(matrix, ((0, 0), beyond, beyond)) + jnp.diag(outside.astype(matrix.dtype))[None]

    def some(b: Array, lower: Array) -> Array:
        start = b * block
        lines = lax.dynamic_slice_in_dim(lower, start, block, 1)

        def take(k: Array, columns: Array) -> Array:
            first = jnp.minimum(k * wide, length - wide)
            right = lax.dynamic_slice_in_dim(lines, first, wide, 2)
            right = jnp.where((first + jnp.arange(wide) >= k * wide)[None, None], right, 0)
            return columns - product(lax.dynamic_slice_in_dim(lower, first, wide, 2), right.swapaxes(1, 2))

        columns = lax.fori_loop(0, -(-start // wide), take, lax.dynamic_slice_in_dim(matrix, start, block, 2))
        own, inverse = _by_rows(lax.dynamic_slice_in_dim(columns, start, block, 1))
        below = (jnp.arange(length) >= start + block)[None, :, None]
        columns = jnp.where(below, product(columns, inverse.swapaxes(1, 2)), 0)
        columns = lax.dynamic_update_slice_in_dim(columns, own, start, 1)
        return lax.dynamic_update_slice_in_dim(lower, columns, start, 2)

    return lax.fori_loop(0, length // block, some, jnp.zeros_like(matrix))[:, :size, :size]


def _by_rows(matrix: Array) -> tuple[Array, Array]:
    """The factor of a small matrix ``[groups, n, n]``, and its inverse, which gives each row of it."""
    places = jnp.arange(matrix.shape[-1])

    def row(i: Array, both: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, inverse = both
        own = matrix[:, i]
        line = jnp.where((places < i)[None], product(inverse, own[..., None])[..., 0], 0)
        corner = jnp.sqrt(own[:, i] - jnp.sum(line * line, -1))[:, None]
        solved = ((places == i).astype(matrix.dtype)[None] - product(line[:, None], inverse)[:, 0]) / corner
        return lower.at[:, i].set(jnp.where((places == i)[None], corner, line)), inverse.at[:, i].set(solved)

    return lax.fori_loop(0, len(places), row, (jnp.zeros_like(matrix), jnp.zeros_like(matrix)))
