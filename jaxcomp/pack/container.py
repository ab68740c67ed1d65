"""The file: a header and blocks of bytes, each closed by a checksum; written whole or not at all.

    b"\\x89JCZ"  version u8  header bytes u32  header bytes when inflated u32      (little end first)
    header: deflated JSON; its "blocks" say of each block what it is and how long its streams   crc u32
    block 0: its streams, one after the other                                                   crc u32
    block 1: ...                                                                                crc u32

A checksum is the CRC-32 of all that precedes it, other checksums left out: it tells every altered bit, and
blocks in the wrong order too. The sizes make up the length of the file, so that it can be neither cut nor
extended. Nothing in it is code.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.core.files import write_atomically
from jaxcomp.pack.streams import deflate, inflate

MAGIC = b"\x89JCZ"
VERSION = 1
_PRELUDE = struct.Struct("<4sBII")
_CRC = struct.Struct("<I")
CHECKSUM_BYTES = _CRC.size
_ANEW = "get the file again, or save it anew"

FORGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError)
"""What reading a file can end in whose checksums hold although jaxcomp did not write it."""

MAX_HEADER = 2**24
"""Bytes of a header that are read unless a caller allows for more: some 200,000 tensors."""

METADATA_DEPTH = 100


class Block(NamedTuple):
    """A part of a container: what it is, as JSON, and its streams: bytes, or views of them."""

    about: list[Any]
    streams: list[Any]


def write(path: str | os.PathLike[str], header: dict[str, Any], blocks: Sequence[Block]) -> int:
    """Writes a container, replacing the file at ``path`` at once when all of it is on the disk.

    Args:
      path: the file.
      header: a JSON-able dict without the key ``blocks``.
      blocks: each its ``about``, a JSON-able list, and its streams.

    Returns:
      The bytes of the file.

    Raises:
      ArgumentError: if the folder does not exist.
      TypeError: if the header is not JSON-able.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = write(f"{folder}/x.jcz", {"hello": 1}, [Block(["b"], [b"", b"de"])])
      ...     header, (block,) = read(f"{folder}/x.jcz")
      >>> header, block.about, list(map(bytes, block.streams))
      ({'hello': 1}, ['b'], [b'', b'de'])

    Reference: RFC 1951 (deflate), RFC 1952 (CRC-32), RFC 8259 (JSON).
    """
    rows = [[*about, [len(stream) for stream in streams]] for about, streams in blocks]
    text = json.dumps({"blocks": rows, **header}, separators=(",", ":")).encode()
    packed = deflate(text)
    first = _PRELUDE.pack(MAGIC, VERSION, len(packed), len(text)) + packed
    parts: list[Any] = []
    crc = 0
    for streams in ([first], *(block.streams for block in blocks)):
        for stream in streams:
            crc = zlib.crc32(stream, crc)
        parts += [*streams, _CRC.pack(crc)]
    write_atomically(path, parts)
    return sum(map(len, parts))


def read(path: str | os.PathLike[str], max_header: int = MAX_HEADER) -> tuple[dict[str, Any], list[Block]]:
    """Reads a container and checks every byte of it.

    Args:
      path: the file.
      max_header: the most bytes that its header may take when inflated.

    Returns:
      ``(header, blocks)``, as written; the streams are views of the file's bytes, of which there is one copy.

    Raises:
      ArtifactError: if the file is no container, of another version, cut short, extended or altered, or its header
        is larger than ``max_header``.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise ArtifactError(f"{path}: needs to be a file that jaxcomp wrote and is {kind}")
    data = memoryview(Path(path).read_bytes())
    if len(data) < _PRELUDE.size or data[:4] != MAGIC:
        raise ArtifactError(
            f"{path}: is no jaxcomp artifact: it needs to begin with {MAGIC!r} and begins with {bytes(data[:4])!r}, "
            f"of {len(data)} bytes in all. Give a file that jaxcomp.pack.save wrote."
        )
    _, version, stored, size = _PRELUDE.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(
            f"{path}: is of format version {version}, and this jaxcomp reads version {VERSION}: upgrade "
            f"jaxcomp or, if it is not newer, {_ANEW}"
        )
    end = _PRELUDE.size + stored
    crc = _check(path, "the header", data[:end], data[end : end + _CRC.size], 0)
    if size > max_header:
        raise ArtifactError(
            f"{path}: its header takes {size:,} bytes when it is inflated, and the limit is {max_header:,}: if the "
            f"file comes from someone you trust, give max_bytes={64 * size} or more"
        )
    try:
        header = json.loads(inflate(bytes(data[_PRELUDE.size : end]), size), object_pairs_hook=_once)
        rows = [(about, [_size(n) for n in sizes]) for *about, sizes in header.pop("blocks")]
    except FORGED as error:
        raise ArtifactError(f"{path}: its header cannot be read ({error}): {_ANEW}") from error
    return header, _blocks(path, data, end + _CRC.size, rows, crc)


def foreign(path: str | os.PathLike[str], error: Exception) -> ArtifactError:
    """The error for a file whose checksums hold and whose contents do not."""
    return ArtifactError(
        f"{path}: its checksums hold but its contents do not make a tree of arrays ({error}): it was not written by "
        "this jaxcomp; upgrade, or save it anew"
    )


def check_metadata(metadata: Any) -> None:
    """Refuses metadata that JSON cannot hold, or not all of.

    Args:
      metadata: a dict, or None for none.

    Raises:
      ArgumentError: for another type, with what in it JSON has no form for, with keys that JSON does not tell apart
        (``{1: a, "1": b}``), or nested deeper than 100.

    Example:
      >>> check_metadata({"epochs": 3})
    """
    try:
        if not isinstance(metadata, Mapping | None):
            raise TypeError(f"it is a {type(metadata).__name__}")
        _check_depth(metadata)
        json.loads(json.dumps(dict(metadata or {})), object_pairs_hook=_once)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"metadata needs to be a dict of what JSON can hold: {error}") from error


def _check_depth(metadata: Any) -> None:
    level = [metadata]
    for _ in range(METADATA_DEPTH):
        inner = (node.values() if isinstance(node, Mapping) else node for node in level)
        level = [
            node for nodes in inner if nodes is not None for node in nodes if isinstance(node, Mapping | list | tuple)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {METADATA_DEPTH}, or holds itself")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"two of the keys {[key for key, _ in pairs]} are the same in JSON")
    return found


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the size of a stream is a whole number of bytes, not {value!r}")
    return value


def _blocks(
    path: str | os.PathLike[str], data: memoryview, at: int, rows: list[tuple[list[Any], list[int]]], crc: int
) -> list[Block]:
    needed = at + sum(sum(block) + _CRC.size for _, block in rows)
    if len(data) != needed:
        change = "cut short" if len(data) < needed else "extended"
        raise ArtifactError(f"{path}: has been {change}: it needs {needed} bytes and has {len(data)}; {_ANEW}")
    blocks = []
    for number, (about, block) in enumerate(rows):
        end = at + sum(block)
        crc = _check(path, f"block {number}", data[at:end], data[end : end + _CRC.size], crc)
        streams = []
        for size in block:
            streams.append(data[at : at + size])
            at += size
        blocks.append(Block(about, streams))
        at += _CRC.size
    return blocks


def _check(path: str | os.PathLike[str], what: str, content: memoryview, word: memoryview, crc: int) -> int:
    crc = zlib.crc32(content, crc)
    if word != _CRC.pack(crc):
        raise ArtifactError(
            f"{path}: {what} is cut short or altered: its checksum needs to be {_CRC.pack(crc).hex()} and is "
            f"{word.hex() or 'missing'}; {_ANEW}"
        )
    return crc
