"""Byte streams: deflate, as they are, by planes, or by halves. Knows nothing of tensors or files.

A stream is one byte that says how it is coded, and a body. Bodies are bare deflate: the container checks its
bytes itself, and the 6 bytes of a zlib wrapper are a tenth of a small layer. Every reader takes the size it
expects, so that a forged stream cannot unfold into more; a large stream is written and read in pieces.
"""

import math
import zlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import numpy as np

RAW, DEFLATE, PLANES, HALVES = b"\0", b"\1", b"\2", b"\3"


class _Way(NamedTuple):
    tag: bytes
    strategy: int
    apart: bool = False


# Huffman codes alone are better in noise: there, a match of three bytes costs more than the three. Planes apart,
# each with codes of its own, are better once they are long enough to pay for them.
_BYTE_WAYS = (_Way(DEFLATE, zlib.Z_DEFAULT_STRATEGY), _Way(DEFLATE, zlib.Z_HUFFMAN_ONLY))
_ITEM_WAYS = (
    _BYTE_WAYS[0],
    _Way(PLANES, zlib.Z_DEFAULT_STRATEGY),
    _Way(PLANES, zlib.Z_HUFFMAN_ONLY, apart=True),
    _Way(PLANES, zlib.Z_DEFAULT_STRATEGY, apart=True),
)
_BARE, _MEMORY = -15, 9
_BLOCK = 1 << 15
"""Bytes of one block's codes at most."""
_LAST = zlib.compressobj(9, zlib.DEFLATED, _BARE).flush()
"""Ends a stream that was coded in parts: a last block of nothing."""
_TRIED = 1 << 13
"""Bytes by which the strategy of a part is chosen."""
_SHORT, _QUICK, _GAIN = 1 << 9, 4, 0.1
"""Bytes of which all is tried; the level of a short search; by which part of what it saves a long one saves more."""
_PART = 1 << 20
"""Items of a part."""
_PENDING = 3
_SIP = 1 << 16


def squeeze(raw: bytes, itemsize: int = 1, most: float = math.inf) -> bytes:
    """Squeezes bytes to the smallest stream at hand: as they are, deflated, or deflated plane by plane.

    A plane holds one byte of every item: signs and exponents repeat where whole floats never do.

    Args:
      raw: the bytes.
      itemsize: bytes of an item, >= 1; ``len(raw)`` is a multiple of it.
      most: bytes above which any stream will do: searches that would not get below it are left out.

    Returns:
      The stream: at most 1 byte longer than ``raw``.

    Example:
      >>> len(squeeze(bytes(1000))) < 20, len(squeeze(b"jax"))
      (True, 4)

    Reference: Deutsch, DEFLATE compressed data format, RFC 1951, 1996.
    """
    ways: tuple[_Way, ...] = _ITEM_WAYS if itemsize > 1 else _BYTE_WAYS
    best = min([RAW + raw, *_halves(raw, itemsize)], key=len)
    for way in ways:
        if way.strategy == zlib.Z_HUFFMAN_ONLY and _fewest(raw, itemsize, way) < min(most, len(best)):
            best = min(best, _code(raw, itemsize, way), key=len)
    for way in ways:
        least = min(most, len(best))
        if way.strategy == zlib.Z_DEFAULT_STRATEGY and (len(raw) < _SHORT or _hopeful(raw, itemsize, way, least)):
            best = min(best, _code(raw, itemsize, way), key=len)
    return best


def _halves(raw: bytes, itemsize: int) -> list[bytes]:
    """The upper halves of items alone, where the lower ones are 0: of bfloat16 numbers in float32, and the like."""
    if itemsize != 4 or not 0 < len(raw) < _SHORT:  # many are smaller plane by plane
        return []
    halves = np.frombuffer(raw, "<u2").reshape(-1, 2)
    return [] if halves[:, 0].any() else [HALVES + halves[:, 1].tobytes()]


def _fewest(raw: bytes, itemsize: int, way: _Way) -> float:
    """The fewest bytes that Huffman codes alone can take: by the frequencies, which one block's codes do not beat."""
    if not _SHORT < len(raw) < _BLOCK:  # the codes of a short one take no longer
        return 0
    planes = np.frombuffer(raw, np.uint8).reshape(-1, itemsize if way.apart else 1).T
    bits = 0.0
    for plane in planes:
        counts = np.bincount(plane)
        counts = counts[counts > 0]
        bits += plane.size * np.log2(plane.size) - float((counts * np.log2(counts)).sum())
    return bits / 8


def _hopeful(raw: bytes, itemsize: int, way: _Way, best: float) -> bool:
    """Whether a long search for matches, seconds a megabyte in noise, could find what a short one did not."""
    quick = len(_code(raw, itemsize, way, _QUICK))
    return quick - best <= _GAIN * (len(raw) - quick)


def matches(raw: bytes) -> bool:
    """Returns whether parts of some bytes repeat earlier ones, so that they take less than by their frequencies.

    Example:
      >>> matches(bytes(range(100)) * 9), matches(np.random.default_rng(0).bytes(900))
      (True, False)
    """
    return len(_deflate([raw], zlib.Z_DEFAULT_STRATEGY, _QUICK)) < len(_deflate([raw], zlib.Z_HUFFMAN_ONLY))


def _code(raw: bytes, itemsize: int, way: _Way, level: int = 9) -> bytes:
    if way.tag == DEFLATE:
        return way.tag + _deflate([raw], way.strategy, level)
    planes = np.frombuffer(raw, np.uint8).reshape(-1, itemsize).T
    parts = [plane.tobytes() for plane in planes] if way.apart else [planes.tobytes()]
    return way.tag + _deflate(parts, way.strategy, level)


def deflate(raw: bytes, likely: bytes = b"") -> bytes:
    """Deflates ``raw`` (RFC 1951, without a header) at its smallest; it may refer to ``likely`` before it.

    Example:
      >>> len(deflate(bytes(1000))), inflate(deflate(b"abc"), 3)
      (11, b'abc')
    """
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED):
        more = (likely,) if likely else ()
        deflater = zlib.compressobj(9, zlib.DEFLATED, _BARE, _MEMORY, strategy, *more)
        found.append(deflater.compress(raw) + deflater.flush())
    return min(found, key=len)


def _deflate(parts: list[bytes], strategy: int, level: int = 9) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, _BARE, _MEMORY, strategy)
    out = [deflater.compress(parts[0])]
    for part in parts[1:]:
        # Huffman codes are chosen block by block.
        out += [deflater.flush(zlib.Z_BLOCK), deflater.compress(part)]
    return b"".join([*out, deflater.flush()])


def inflate(body: bytes, limit: int, likely: bytes = b"") -> bytes:
    """Inflates the ``body`` of :func:`deflate`, which may refer to ``likely``.

    Raises:
      ValueError: if it gives more than ``limit`` bytes.
    """
    inflater = zlib.decompressobj(_BARE, likely) if likely else zlib.decompressobj(_BARE)
    try:
        raw = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError(f"a stream cannot be inflated: {error}") from error
    if len(raw) > limit or not inflater.eof or inflater.unused_data:
        raise ValueError(f"a stream holds more or less than the {limit} bytes that it should")
    return raw


class Squeezer:
    """Codes a long stream in parts, in threads: the deflated parts, one after the other, are one deflated stream.

    Attributes:
      way: how the stream is coded, the first byte of what :func:`squeeze` makes of a sample.
    """

    def __init__(self, pool: Executor, way: bytes, itemsize: int, convert: Callable[[np.ndarray], np.ndarray]):
        """Takes the threads, the way, and what makes ``[n, itemsize]`` bytes of values; of 8n values if of bits."""
        self.way, self._pool, self._convert = way, pool, convert
        self._planes = itemsize if way == PLANES else 1
        self._held: list[np.ndarray] = []
        self._count = 0
        self._coded = [bytearray(way), *(bytearray() for _ in range(self._planes - 1))]
        self._waiting: list[Future[list[bytes]]] = []

    def feed(self, values: np.ndarray) -> None:
        """Takes the next values."""
        self._held.append(values)
        self._count += len(values)
        while self._count >= _PART:
            whole = np.concatenate(self._held)
            self._submit(whole[:_PART])
            self._held = [whole[_PART:].copy()]
            self._count = len(whole) - _PART

    def finish(self) -> bytearray:
        """Returns the stream."""
        self._submit(np.concatenate(self._held)) if self._count else None
        self._collect(0)
        out, *planes = self._coded  # the first grows, and what it takes up goes
        self._coded = []
        while planes:
            out += planes.pop(0)
        if self.way != RAW:
            out += _LAST
        return out

    def _submit(self, values: np.ndarray) -> None:
        self._waiting.append(self._pool.submit(self._parts, values))
        self._collect(_PENDING)

    def _collect(self, most: int) -> None:
        while len(self._waiting) > most:
            for plane, part in zip(self._coded, self._waiting.pop(0).result(), strict=True):
                plane += part

    def _parts(self, values: np.ndarray) -> list[bytes]:
        raw = self._convert(values)
        if self.way == RAW:
            return [raw.tobytes()]
        return [_part(plane.tobytes()) for plane in raw.reshape(-1, self._planes).T]


def _part(raw: bytes) -> bytes:
    """Deflated bytes that end at the end of a byte, with more to come."""
    middle = len(raw) // 2
    tried = raw[middle : middle + _TRIED] if len(raw) > 2 * _TRIED else raw
    strategies = ((zlib.Z_HUFFMAN_ONLY, 9), (zlib.Z_DEFAULT_STRATEGY, _QUICK))
    sizes = {strategy: len(_deflate([tried], strategy, level)) for strategy, level in strategies}
    strategy = min(sizes, key=lambda s: (sizes[s], -s))
    level = 0 if sizes[strategy] >= len(tried) else 9
    deflater = zlib.compressobj(level, zlib.DEFLATED, _BARE, _MEMORY, strategy)
    return deflater.compress(raw) + deflater.flush(zlib.Z_SYNC_FLUSH)


class Reader:
    """The bytes of a stream of bytes, piece by piece.

    Args:
      stream: of :func:`squeeze` or of a :class:`Squeezer`.
      size: the most bytes that may come out.
    """

    def __init__(self, stream: Any, size: int):
        """Takes a stream; a ValueError if it is none."""
        view = memoryview(stream)
        self.way, self._body, self._left = bytes(view[:1]), view[1:], size
        if self.way not in (RAW, DEFLATE, PLANES, HALVES):
            raise ValueError(f"a stream's coding is 0, 1, 2 or 3, not {self.way!r}")
        self._inflater = None if self.way in (RAW, HALVES) else zlib.decompressobj(_BARE)
        self._tail = b""

    def read(self, size: int) -> bytes:
        """Reads the next ``size`` bytes: fewer where the stream ends.

        Raises:
          ValueError: if it is not well formed.
        """
        size = min(size, self._left)
        if self._inflater is None:
            piece = bytes(self._body[:size])
            self._body = self._body[size:]
        else:
            piece = self._inflate(size)
        self._left -= len(piece)
        return piece

    def _inflate(self, size: int) -> bytes:
        assert self._inflater is not None
        found = bytearray()
        while len(found) < size and not self._inflater.eof:
            if not self._tail:  # in sips: what is not used of one is copied by zlib
                self._tail, self._body = bytes(self._body[:_SIP]), self._body[_SIP:]
            try:
                more = self._inflater.decompress(self._tail, size - len(found))
            except zlib.error as error:
                raise ValueError(f"a stream cannot be inflated: {error}") from error
            at_end = not self._tail and not self._body and not more
            self._tail = self._inflater.unconsumed_tail
            found += more
            if at_end:
                break
        return bytes(found)

    def close(self) -> None:
        """Checks that the stream ends here, or raises a ValueError."""
        ended = not len(self._body)
        if self._inflater is not None:
            more = self._inflate(1)
            ended = not more and self._inflater.eof and not self._inflater.unused_data and not len(self._body)
        if not ended:
            raise ValueError("a stream holds more or less than the bytes that it should")


def expand(stream: Any, limit: int, itemsize: int = 1) -> bytes:
    """Expands a stream to its bytes.

    Args:
      stream: of :func:`squeeze`.
      limit: the most bytes that may come out.
      itemsize: bytes of an item, as it was squeezed.

    Raises:
      ValueError: if the stream is not well formed, or holds more than ``limit`` bytes.

    Example:
      >>> expand(squeeze(b"jax"), 3)
      b'jax'
    """
    reader = Reader(stream, limit)
    raw = reader.read(limit)
    reader.close()
    if reader.way == PLANES:
        raw = np.frombuffer(raw, np.uint8).reshape(itemsize, -1).T.tobytes()
    if reader.way == HALVES:
        if len(raw) % 2:
            raise ValueError(f"a stream of halves holds an odd number of bytes, {len(raw)}")
        raw = (np.frombuffer(raw, "<u2").astype("<u4") << 16).tobytes()
    if len(raw) > limit:
        raise ValueError(f"a stream holds more than the {limit} bytes that it should")
    return raw


def expand_into(stream: Any, items: np.ndarray) -> None:
    """Fills ``items``, ``[n, itemsize]`` uint8, with the bytes of a ``stream``.

    Raises:
      ValueError: if it does not hold as many.
    """
    count, itemsize = items.shape
    reader = Reader(stream, items.size)
    if reader.way == HALVES:
        raw = np.frombuffer(expand(stream, items.size), np.uint8)
        if itemsize != 4 or raw.size != items.size:
            raise ValueError(f"a stream of halves holds {raw.size} bytes of items of 4, not {count} of {itemsize}")
        items[:] = raw.reshape(items.shape)
        return
    rows = [items[:, plane] for plane in range(itemsize)] if reader.way == PLANES else [items.reshape(-1)]
    for row in rows:
        for begin in range(0, len(row), _PART):
            piece = row[begin : begin + _PART]
            found = np.frombuffer(reader.read(len(piece)), np.uint8)
            if len(found) != len(piece):
                raise ValueError(f"a stream holds fewer bytes than the {count * itemsize} that are needed")
            piece[:] = found
    reader.close()
