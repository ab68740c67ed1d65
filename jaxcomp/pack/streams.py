"""Byte streams: deflate, as they are or by planes. Knows nothing of tensors or files.

A stream is one byte that says how it is coded, and a body. Bodies are bare deflate: the container checks its
bytes itself, and the 6 bytes of a zlib wrapper are a tenth of a small layer. Every reader takes the size it
expects, so that a forged stream cannot unfold into more.
"""

import zlib
from typing import NamedTuple

import numpy as np

_RAW, _DEFLATE, _PLANES = b"\0", b"\1", b"\2"


class _Way(NamedTuple):
    tag: bytes
    strategy: int
    apart: bool = False


# Huffman codes alone are better in noise: there, a match of three bytes costs more than the three. Planes apart,
# each with codes of its own, are better once they are long enough to pay for them.
_BYTE_WAYS = (_Way(_DEFLATE, zlib.Z_DEFAULT_STRATEGY), _Way(_DEFLATE, zlib.Z_HUFFMAN_ONLY))
_ITEM_WAYS = (
    _BYTE_WAYS[0],
    _Way(_PLANES, zlib.Z_DEFAULT_STRATEGY),
    _Way(_PLANES, zlib.Z_HUFFMAN_ONLY, apart=True),
    _Way(_PLANES, zlib.Z_DEFAULT_STRATEGY, apart=True),
)
# Level 9 can take seconds a megabyte: a large stream goes at level 7, the way that is best for a sample of it.
_LARGE, _SAMPLE = 1 << 20, 1 << 16
_BARE, _MEMORY = -15, 9


def squeeze(raw: bytes, itemsize: int = 1) -> bytes:
    """Codes bytes as the smallest stream at hand: as they are, deflated, or deflated plane by plane.

    A plane holds one byte of every item: signs and exponents repeat where whole floats never do.

    Args:
      raw: the bytes.
      itemsize: bytes of an item, >= 1; ``len(raw)`` is a multiple of it.

    Returns:
      The stream: at most 1 byte longer than ``raw``.

    Example:
      >>> len(squeeze(bytes(1000))) < 20, len(squeeze(b"jax"))
      (True, 4)

    Reference: Deutsch, DEFLATE compressed data format, RFC 1951, 1996.
    """
    ways: tuple[_Way, ...] = _ITEM_WAYS if itemsize > 1 else _BYTE_WAYS
    if len(raw) > _LARGE:
        middle = len(raw) // 2 // itemsize * itemsize
        sample = raw[middle : middle + _SAMPLE * itemsize]
        ways = (min(ways, key=lambda way: len(_code(sample, itemsize, way))),)
    return min([_RAW + raw, *(_code(raw, itemsize, way) for way in ways)], key=len)


def _code(raw: bytes, itemsize: int, way: _Way) -> bytes:
    if way.tag == _DEFLATE:
        return way.tag + _deflate([raw], way.strategy)
    planes = np.frombuffer(raw, np.uint8).reshape(-1, itemsize).T
    parts = [plane.tobytes() for plane in planes] if way.apart else [planes.tobytes()]
    return way.tag + _deflate(parts, way.strategy)


def expand(stream: bytes, limit: int, itemsize: int = 1) -> bytes:
    """The bytes of a stream.

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
    tag, body = stream[:1], stream[1:]
    if tag not in (_RAW, _DEFLATE, _PLANES):
        raise ValueError(f"a stream's coding is 0, 1 or 2, not {tag!r}")
    raw = body if tag == _RAW else inflate(body, limit)
    if len(raw) > limit:
        raise ValueError(f"a stream holds {len(raw)} bytes where {limit} are the most")
    if tag == _PLANES:
        raw = np.frombuffer(raw, np.uint8).reshape(itemsize, -1).T.tobytes()
    return raw


def expand_exactly(stream: bytes, size: int, itemsize: int = 1) -> np.ndarray:
    """The ``size`` bytes of a stream as ``[size]`` uint8, or a ValueError."""
    raw = expand(stream, size, itemsize)
    if len(raw) != size:
        raise ValueError(f"a stream holds {len(raw)} bytes where {size} are needed")
    return np.frombuffer(raw, np.uint8)


def deflate(raw: bytes) -> bytes:
    """Bare deflate (RFC 1951, without a header), at its smallest.

    Example:
      >>> len(deflate(bytes(1000))), inflate(deflate(b"abc"), 3)
      (11, b'abc')
    """
    return _deflate([raw], zlib.Z_DEFAULT_STRATEGY)


def _deflate(parts: list[bytes], strategy: int) -> bytes:
    level = 9 if sum(map(len, parts)) <= _LARGE else 7
    deflater = zlib.compressobj(level, zlib.DEFLATED, _BARE, _MEMORY, strategy)
    out = [deflater.compress(parts[0])]
    for part in parts[1:]:
        # Huffman codes are chosen block by block.
        out += [deflater.flush(zlib.Z_BLOCK), deflater.compress(part)]
    return b"".join([*out, deflater.flush()])


def inflate(body: bytes, limit: int) -> bytes:
    """The inverse of :func:`deflate`: at most ``limit`` bytes, or a ValueError."""
    inflater = zlib.decompressobj(_BARE)
    try:
        raw = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError(f"a stream cannot be inflated: {error}") from error
    if len(raw) > limit or not inflater.eof or inflater.unused_data:
        raise ValueError(f"a stream holds more or less than the {limit} bytes that it should")
    return raw
