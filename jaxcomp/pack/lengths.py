"""Code lengths: what each code would take under the range coder's own model, for those who choose codes by it."""

from typing import NamedTuple

import numpy as np

from jaxcomp.pack import coding, entropy
from jaxcomp.pack.contexts import TOTAL


class Lengths(NamedTuple):
    """A tensor's model.

    Attributes:
      low: the code of the first column.
      which: ``[...]`` uint8, the tensor's: which table is that of each of its codes.
      bits: ``[tables, codes]`` float32, what a code takes by a table that has counted all of the tensor.
    """

    low: int
    which: np.ndarray
    bits: np.ndarray

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Returns the bits of other codes in the same places, ``[...]`` float32."""
        return self.bits[self.which, codes - self.low]


def code_lengths(codes: np.ndarray, low: int, high: int) -> Lengths:
    """Fits the model that a file has of a tensor's codes when it has seen all of them.

    Args:
      codes: ``[...]`` whole numbers, of the shape that is stored.
      low, high: the least and the greatest code that there could be: more than ``low``, by less than 1,024.

    Example:
      >>> codes = np.tile([0, 0, 0, 1], (64, 2))
      >>> found = code_lengths(codes, -1, 1)
      >>> found.of(codes).shape, bool(found.of(0 * codes)[9, 0] < 0.2 < 3 < found.of(0 * codes + 1)[9, 0])
      ((64, 8), True)
    """
    flat = np.asarray(codes, np.int64).reshape(-1)
    numbers = entropy.Numbers(low, high, coding.mean_of(flat))
    which = np.zeros(flat.size, np.uint8)
    tables = np.ones((1, high - low + 1))
    for positions, own, so_far in entropy.modeled(np.shape(codes), flat.__getitem__, numbers):
        which[positions], tables = own, so_far
    return Lengths(low, which.reshape(np.shape(codes)), -np.log2(tables / TOTAL).astype(np.float32))
