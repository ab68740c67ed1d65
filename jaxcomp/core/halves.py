"""Products with triangles and symmetric matrices on the host, at half the multiplications of whole ones."""

from collections.abc import Iterator

import numpy as np

ROWS = 512
"""Rows of a block: of smaller ones products are slower, of larger ones more is multiplied that is known or 0."""


def forms(matrix: np.ndarray, change: np.ndarray) -> np.ndarray:
    r"""Computes :math:`\operatorname{diag} D^\top H D`, the squared errors of outputs.

    Args:
      matrix: H ``[groups, n, n]``, symmetric.
      change: D ``[groups, n, out]``.

    Returns:
      ``[groups, out]``, float64.

    Example:
      >>> forms(np.array([[[2.0, 1.0], [1.0, 2.0]]]), np.ones((1, 2, 1))).tolist()
      [[6.0]]
    """
    found = np.zeros((len(change), change.shape[2]))
    for here in blocks(change.shape[1], ROWS):
        own = change[:, here]
        slopes = np.matmul(matrix[:, here, here], own)
        if here.start:
            slopes += 2 * np.matmul(matrix[:, here, : here.start], change[:, : here.start])
        found += np.sum(own * slopes, 1, dtype=np.float64)
    return found


def upper_product(upper: np.ndarray, wanted: np.ndarray, turned: bool = False) -> np.ndarray:
    r"""Computes :math:`U B`, or :math:`U^\top B` if it is ``turned``.

    Args:
      upper: U ``[groups, n, n]``, upper triangular.
      wanted: B ``[groups, n, out]``.

    Example:
      >>> upper_product(np.array([[[1.0, 2.0], [0.0, 3.0]]]), np.ones((1, 2, 1)), turned=True).ravel().tolist()
      [1.0, 5.0]
    """
    found = np.empty(wanted.shape, np.result_type(upper, wanted))
    for here in blocks(wanted.shape[1], ROWS):
        if turned:
            found[:, here] = np.matmul(upper[:, : here.stop, here].swapaxes(1, 2), wanted[:, : here.stop])
        else:
            found[:, here] = np.matmul(upper[:, here, here.start :], wanted[:, here.start :])
    return found


def blocks(size: int, block: int) -> Iterator[slice]:
    """Cuts ``size`` rows into blocks of ``block``, of which the last may be shorter.

    Example:
      >>> [*blocks(5, 2)]
      [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(first, min(first + block, size)) for first in range(0, size, block))
