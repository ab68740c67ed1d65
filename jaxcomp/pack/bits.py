"""Codes of few bits, several to a byte: taken apart for the range coder, and put together again."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcomp.pack.pieces import each
from jaxcomp.quant.nibbles import codes_per_byte


class BitFields:
    """Codes in two's complement, from the low bits of each byte to its high ones.

    Args:
      per_byte: how many of them a byte holds: 2 or 4.
      shape: of the codes.

    Example:
      >>> BitFields(2, (3,)).codes(np.array([241, 7], np.uint8), np.arange(3)).tolist()
      [1, -1, 7]
    """

    def __init__(self, per_byte: Any, shape: Any):
        """Takes a layout; a ValueError if it is none."""
        whole = type(shape) in (list, tuple) and all(type(size) is int and size > 0 for size in shape)
        if per_byte not in (2, 4) or not whole:
            raise ValueError(f"bytes hold 2 or 4 codes of an array, not {per_byte!r:.40} of {shape!r:.60}")
        self.per_byte, self.shape, self.width = per_byte, tuple(shape), 8 // per_byte
        self.count = math.prod(self.shape)

    @classmethod
    def of(cls, array: np.ndarray, fields: tuple[int, tuple[int, ...]]) -> "BitFields | None":
        """Views an array as codes of several to a byte.

        Args:
          array: ``[bytes]``.
          fields: bits of a code, and the shape of the codes.

        Returns:
          The codes; None if the array does not hold such ones.
        """
        per_byte = codes_per_byte(fields[0])
        if array.dtype != np.uint8 or array.ndim != 1 or per_byte == 1 or 0 in fields[1]:
            return None
        found = cls(per_byte, fields[1])
        if array.size != found.bytes or int(array[-1]) >> ((found.count - 1) % per_byte + 1) * found.width:
            return None
        return found

    @property
    def bytes(self) -> int:
        """How many bytes hold the codes."""
        return -(-self.count // self.per_byte)

    def codes(self, flat: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Returns the codes of ``flat`` at ``positions``, int64."""
        fields = flat[positions // self.per_byte] >> (positions % self.per_byte * self.width).astype(np.uint8)
        fields = (fields & (2**self.width - 1)).astype(np.int64)
        return fields - (fields >> (self.width - 1) << self.width)

    def ends(self, flat: np.ndarray) -> tuple[int, int]:
        """Returns the least and the greatest code."""

        def ends(piece: tuple[int, int]) -> tuple[int, int]:
            codes = self.codes(flat, np.arange(*piece))
            return int(codes.min()), int(codes.max())

        every = list(each(ends, self.count))
        return min(low for low, _ in every), max(high for _, high in every)

    def place(self, flat: np.ndarray, pieces: Iterator[tuple[np.ndarray, np.ndarray]], low: int, high: int) -> None:
        """Puts codes into bytes of 0.

        Args:
          flat: ``[bytes]`` uint8.
          pieces: positions, and the codes there.
          low, high: the least and the greatest code.

        Raises:
          ValueError: if bytes are of another number, or codes of more bits.
        """
        half = 2 ** (self.width - 1)
        if flat.dtype != np.uint8 or flat.size != self.bytes or not -half <= low <= high < half:
            raise ValueError(f"{self.count} codes from {low} to {high} are no {flat.size} bytes of {flat.dtype}")
        for positions, codes in pieces:
            fields = (codes & (2**self.width - 1)) << positions % self.per_byte * self.width
            np.bitwise_or.at(flat, positions // self.per_byte, fields.astype(np.uint8))
