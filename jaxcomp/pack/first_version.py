"""Files of the first version, which are read and no longer written: a header of JSON, a checksum after each block.

    b"\\x89JCZ"  version 1 u8  header bytes u32  header bytes when inflated u32      (little end first)
    header: deflated JSON; its "blocks" say of each block what it is and how long its streams   crc u32
    block 0: its streams, one after the other                                                   crc u32
    block 1: ...                                                                                crc u32

A checksum is the CRC-32 of all that precedes it, other checksums left out.
"""

import json
import struct
import zlib
from typing import Any

from jaxcomp.pack.streams import inflate

_PRELUDE = struct.Struct("<4sBII")
_CRC = struct.Struct("<I")


class TooLargeError(Exception):
    """A header takes more bytes than are allowed."""

    def __init__(self, size: int):
        """Takes these bytes."""
        super().__init__(size)
        self.size = size


def read(data: memoryview, max_header: int) -> tuple[dict[str, Any], list[Any], memoryview]:
    """Reads the header, what it says of blocks, and the bytes of these, one after the other.

    Args:
      data: the file.
      max_header: the most bytes that its header may take when inflated.

    Raises:
      ValueError: if it is cut short, extended or altered.
      TooLargeError: if its header is larger.
    """
    if len(data) < _PRELUDE.size:
        raise ValueError("it is cut short: its header is not all there")
    _, _, stored, size = _PRELUDE.unpack_from(data)
    end = _PRELUDE.size + stored
    crc = _check("the header", data[:end], data[end : end + _CRC.size], 0)
    if size > max_header:
        raise TooLargeError(size)
    header = json.loads(inflate(bytes(data[_PRELUDE.size : end]), size), object_pairs_hook=once)
    about, at = header.pop("blocks"), end + _CRC.size
    lengths = [sum(map(_size, sizes)) for *_, sizes in about]
    needed = at + sum(lengths) + len(lengths) * _CRC.size
    if len(data) != needed:
        change = "cut short" if len(data) < needed else "extended"
        raise ValueError(f"it has been {change}: it needs {needed} bytes and has {len(data)}")
    parts = []
    for number, length in enumerate(lengths):
        parts.append(data[at : at + length])
        crc = _check(f"block {number}", parts[-1], data[at + length : at + length + _CRC.size], crc)
        at += length + _CRC.size
    return header, about, memoryview(b"".join(parts))


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a dict of JSON's pairs, whose keys must differ.

    Raises:
      ValueError: if two are equal.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"two of the keys {[key for key, _ in pairs]} are the same in JSON")
    return found


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the size of a stream is a whole number of bytes, not {value!r}")
    return value


def _check(what: str, content: memoryview, word: memoryview, crc: int) -> int:
    crc = zlib.crc32(content, crc)
    if word != _CRC.pack(crc):
        raise ValueError(
            f"{what} is cut short or altered: its checksum needs to be {_CRC.pack(crc).hex()} and is "
            f"{word.hex() or 'missing'}"
        )
    return crc
