"""Integers as bit fields, masks as bits or gaps: how numbers become bytes, and come back piece by piece."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.pack.streams import Reader, expand_into

_ESCAPE = 255
_SIP = 1 << 16


class Span(NamedTuple):
    """The span of integers.

    Attributes:
      low, high: the least and the greatest.
      holes: whether they are but two values, 2 apart.
    """

    low: int
    high: int
    holes: bool = False

    def joined(self, other: "Span") -> "Span":
        """Returns the span of both together."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        own = [span for span in (self, other) if (span.low, span.high) != (low, high)]
        ends = all(span.holes or span.low == span.high for span in (self, other))
        return Span(low, high, high - low == 2 and ends and all(span.low in (low, high) for span in own))


def span(values: np.ndarray) -> Span | None:
    """Returns the span of integers, None if there are none.

    Example:
      >>> span(np.array([1, -1])), span(np.array([1])).joined(span(np.array([2])))
      (Span(low=-1, high=1, holes=True), Span(low=1, high=2, holes=False))
    """
    if not values.size:
        return None
    low, high = int(values.min()), int(values.max())
    return Span(low, high, high - low == 2 and not (values == low + 1).any())


def packings(held: Span | None) -> list[list[int]]:
    """Lists the ways to store integers as bits: ``[least, bits]``, and a step of 2 for two values 2 apart.

    Whole bytes, and just enough bits where these are fewer; none where they span 2**32 or more.

    Example:
      >>> packings(Span(-1, 5)), packings(Span(-1, 1, holes=True))
      ([[-1, 8], [-1, 3]], [[-1, 8, 2], [-1, 1, 2]])
    """
    low, high, holes = held or Span(0, 0)
    exact = 1 if holes else (high - low).bit_length()
    if exact > 32:
        return []
    widths = [-(-exact // 8) * 8]
    widths += [exact] if exact != widths[0] else []
    return [[low, width, 2] if holes else [low, width] for width in widths]


def narrowed(values: np.ndarray, packing: list[int]) -> np.ndarray:
    """Subtracts the least from integers, in one byte or four: ``[n]``, what :func:`laid` takes.

    Args:
      values: ``[n]``.
      packing: one of :func:`packings`.

    Example:
      >>> narrowed(np.array([-1, 5]), [-1, 3]).tolist()
      [0, 6]
    """
    low, width, *stride = packing
    over = values - low
    if stride:
        over >>= 1
    return over.astype("<u1" if width <= 8 else "<u4")


def laid(over: np.ndarray, packing: list[int]) -> np.ndarray:
    """Packs integers into bytes: ``[n, bits / 8]`` uint8, or ``[ceil(n * bits / 8), 1]`` where bits are no whole bytes.

    Args:
      over: ``[n]``, of :func:`narrowed`.
      packing: one of :func:`packings`.

    Example:
      >>> laid(np.array([0, 6], np.uint8), [-1, 3]).tolist()
      [[48]]
    """
    width = packing[1]
    if width == 0:
        return np.zeros((0, 1), np.uint8)
    fields = over.reshape(-1, 1).view(np.uint8)
    if width % 8 == 0:
        return fields[:, : width // 8]
    bits = np.unpackbits(fields, axis=1, bitorder="little")[:, :width]
    return np.packbits(bits, bitorder="little").reshape(-1, 1)


def to_fields(values: np.ndarray, packing: list[int]) -> np.ndarray:
    """Packs integers ``values`` into the bytes of a stream by a ``packing``: :func:`laid`, once :func:`narrowed`."""
    return laid(narrowed(values, packing), packing)


def itemsize(packing: list[int]) -> int:
    """Returns the bytes of an item of :func:`to_fields`."""
    return packing[1] // 8 if packing[1] % 8 == 0 and packing[1] else 1


class Integers:
    """The integers of a stream, piece by piece: the inverse of :func:`to_fields`."""

    def __init__(self, packing: Any, stream: Any, count: int):
        """Takes the packing, the stream and how many integers it holds.

        Raises:
          ValueError: if that is no packing.
        """
        low, width, stride = (*packing, 1) if len(packing) == 2 else packing
        whole = all(type(number) is int for number in (low, width, stride))
        if not whole or not 0 <= width <= 32 or stride not in (1, 2):
            raise ValueError(
                f"integers are stored over the least, in 0 to 32 bits, in steps of 1 or 2, not as {packing!r}"
            )
        self._low, self._width, self._stride, self._left = low, width, stride, count
        self._held = np.zeros(0, np.int64)
        size = itemsize([low, width])
        if size > 1:
            self._whole = np.empty((count, size), np.uint8)
            expand_into(stream, self._whole)
        else:
            self._reader = Reader(stream, -(-count * width // 8))

    def take(self, count: int) -> np.ndarray:
        """Returns the next integers, int64.

        Raises:
          ValueError: if the stream does not hold them, or they are no int64.
        """
        pieces = [self._held]
        missing = count - len(self._held)
        while missing > 0:
            pieces.append(self._next())
            missing -= len(pieces[-1])
        whole = pieces[-1] if len(pieces) == 2 and not len(pieces[0]) else np.concatenate(pieces)
        self._held = whole[count:]
        return whole[:count]

    def close(self) -> None:
        """Checks that nothing is left, or raises a ValueError."""
        if self._left or len(self._held):
            raise ValueError("a stream holds more integers than the tensor")
        if not hasattr(self, "_whole"):
            self._reader.close()

    def _next(self) -> np.ndarray:
        count, width = min(_SIP, self._left), self._width
        if not count:
            raise ValueError("a stream holds fewer integers than the tensor")
        fields = np.zeros((count, 4), np.uint8)
        if hasattr(self, "_whole"):
            done = len(self._whole) - self._left
            fields[:, : width // 8] = self._whole[done : done + count]
        else:
            raw = np.frombuffer(self._reader.read(-(-count * width // 8)), np.uint8)
            if len(raw) != -(-count * width // 8):
                raise ValueError(f"a stream holds {len(raw)} bytes of {count} integers of {width} bits")
            if width % 8:
                bits = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width)
                raw = np.packbits(bits, axis=1, bitorder="little")
            fields[:, : -(-width // 8)] = raw.reshape(count, -(-width // 8))
        self._left -= count
        values = fields.view("<u4").reshape(count).astype(np.int64) * self._stride
        if not (self._low >= -(2**63) and self._low + int(values.max(initial=0)) < 2**63):
            raise ValueError(f"integers over {self._low} are no int64")
        return values + self._low


class Gaps:
    """Positions of the True of a mask, as the gaps between them.

    A gap byte below 255 says how many False precede the next True; 255 stands for 255 False and no True.
    At high sparsity the gaps, Huffman-coded by deflate, come near the entropy of the mask; a mask that
    repeats (whole channels) or is half full is smaller as bits.

    Example:
      >>> Gaps()(np.arange(300) % 290 == 289).tolist()
      [255, 34]
    """

    def __init__(self) -> None:
        """Begins at the first item of a mask."""
        self._before = 0

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """The bytes of the next part of the mask."""
        where = np.flatnonzero(mask)
        runs = np.diff(where, prepend=-1) - 1
        if len(where):
            runs[0] += self._before
            self._before = len(mask) - 1 - int(where[-1])
        else:
            self._before += len(mask)
        ends = np.cumsum(runs // _ESCAPE + 1) - 1
        gaps = np.full(ends[-1] + 1 if ends.size else 0, _ESCAPE, np.uint8)
        gaps[ends] = runs % _ESCAPE
        return gaps


def bits_of(mask: np.ndarray) -> np.ndarray:
    """Packs a mask into bits: ``[n]`` bool to ``[ceil(n / 8)]`` uint8."""
    return np.packbits(mask)


def unpack_mask(kind: str, stream: Any, size: int) -> tuple[np.ndarray, int]:
    """Returns the packed bits of a mask, and how many are True.

    Args:
      kind: ``mask`` or ``gaps``, as it is stored.
      stream: its stream.
      size: its items.

    Raises:
      ValueError: if the stream holds no such mask.

    Example:
      >>> from jaxcomp.pack.streams import squeeze
      >>> unpack_mask("gaps", squeeze(bytes([1, 0])), 4)
      (array([96], dtype=uint8), 2)
    """
    bits = np.zeros(-(-size // 8), np.uint8)
    if kind == "mask":
        expand_into(stream, bits.reshape(-1, 1))
        bits[-1:] &= 0xFF << (-size % 8) & 0xFF
        return bits, int(np.bitwise_count(bits).sum(dtype=np.int64))
    if kind != "gaps":
        raise ValueError(f"positions are stored as 'mask' or 'gaps', not {kind!r}: the file may be newer")
    count = 0
    for where in _positions(Reader(stream, size), size):
        np.bitwise_or.at(bits, where >> 3, (128 >> (where & 7)).astype(np.uint8))
        count += len(where)
    return bits, count


def _positions(reader: Reader, size: int) -> Iterator[np.ndarray]:
    after, ended = 0, True
    while piece := reader.read(_SIP):
        steps = np.frombuffer(piece, np.uint8).astype(np.int64)
        hits = steps < _ESCAPE
        ends = after + np.cumsum(steps + hits)
        where = ends[hits] - 1
        if where.size and where[-1] >= size:
            raise ValueError(f"gaps lead beyond the {size} values of the tensor")
        after, ended = int(ends[-1]), bool(hits[-1])
        yield where
    if not ended:
        raise ValueError(f"gaps lead beyond the {size} values of the tensor")
    reader.close()
