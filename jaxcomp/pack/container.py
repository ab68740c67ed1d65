"""The file: a header, bytes, and a checksum that closes all of it; written whole or not at all.

    b"\\x89JCZ"  version 2 u8  header bytes, header bytes when inflated: seven bits a byte, the low ones first
    header: deflated; bytes of a JSON text, that text, then of each block what it is and how long its streams (``rows``)
    block 0: its streams, one after the other
    block 1: ...
    crc u32, little end first

The checksum is the CRC-32 of all that precedes it: it tells every altered bit. The sizes make up the length of the
file. Nothing in it is code. Files of version 1 (``first_version``) are read as well.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxcomp.core import files
from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.pack import first_version, rows
from jaxcomp.pack.streams import deflate, inflate

MAGIC = b"\x89JCZ"
VERSION = 2
_CRC = struct.Struct("<I")
_LIKELY = (
    b'{"off_grid":[],"metadata":{"accuracy":0.9},"rewrites":[["quantize","'
    + rows.write(
        [
            [["Conv_0", "bias"], [10], "float32", "plain", [], [41]],
            [["params", "Dense_0", "kernel"], [32, 10], "float32", "codes+pattern", [[16], [-7, 4], []], [5, 64, 32]],
            [["BatchNorm_0", "mean"], [32], "float32", "codes", [[-7, 4], []], [3, 8]],
            [[[0]], [5, 5, 1, 10], "float32", "codes+range", [[-7, 7, 16], []], [3, 64]],
        ]
    )
    + b'{"coder":"range2"}'
)
"""Bytes that deflate may refer to before a header begins: part of the format."""
_ANEW = "get the file again, or save it anew"

FORGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError)
"""Exceptions in which reading a file can end whose checksums hold although jaxcomp did not write it."""

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
    text = json.dumps(header, separators=(",", ":")).encode() if header else b""
    about = json.loads(json.dumps([[*block.about, [len(stream) for stream in block.streams]] for block in blocks]))
    raw = rows.varint(len(text)) + text + rows.write(about)
    packed = deflate(raw, _LIKELY)
    parts: list[Any] = [MAGIC, bytes([VERSION]), rows.varint(len(packed)), rows.varint(len(raw)), packed]
    parts += [stream for block in blocks for stream in block.streams]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    parts.append(_CRC.pack(crc))
    files.write_atomically(path, parts)
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
    data = memoryview(files.read(path))
    if len(data) <= len(MAGIC) or data[:4] != MAGIC:
        raise ArtifactError(
            f"{path}: is no jaxcomp artifact: it needs to begin with {MAGIC!r} and begins with {bytes(data[:4])!r}, "
            f"of {len(data)} bytes in all. Give a file that jaxcomp.pack.save wrote."
        )
    version = data[4]
    if version not in (1, VERSION):
        raise ArtifactError(
            f"{path}: is of format version {version}, and this jaxcomp reads versions 1 and {VERSION}: upgrade "
            f"jaxcomp or, if it is not newer, {_ANEW}"
        )
    try:
        header, about, body = first_version.read(data, max_header) if version == 1 else _read(data, max_header)
        return header, _blocks(about, body)
    except first_version.TooLargeError as error:
        raise ArtifactError(
            f"{path}: its header takes {error.size:,} bytes when it is inflated, and the limit is {max_header:,}: if "
            f"the file comes from someone you trust, give max_bytes={64 * error.size} or more"
        ) from None
    except FORGED as error:
        raise ArtifactError(f"{path}: {error}: {_ANEW}") from error


def _read(data: memoryview, max_header: int) -> tuple[dict[str, Any], list[Any], memoryview]:
    """The header, what it says of blocks, and their bytes, of a file of this version."""
    end = len(data) - _CRC.size
    found = _CRC.pack(zlib.crc32(data[:end]))
    if end < 7 or found != data[end:]:
        raise ValueError(
            f"it is cut short, extended or altered: its checksum needs to be {found.hex()} and is {data[end:].hex()}"
        )
    at = rows.Reader(data[:end], 5)
    stored, size = at.varint(), at.varint()
    if size > max_header:
        raise first_version.TooLargeError(size)
    body = at.place + stored
    raw = inflate(bytes(data[at.place : body]), size, _LIKELY)
    inner = rows.Reader(raw)
    start = inner.varint() + inner.place
    text = raw[inner.place : start]
    header = json.loads(text, object_pairs_hook=first_version.once) if text else {}
    return header, rows.read(raw[start:]), data[body:end]


def foreign(path: str | os.PathLike[str], error: Exception) -> ArtifactError:
    """Makes the error for the file at ``path`` whose checksums hold and whose contents raised ``error``."""
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
        json.loads(json.dumps(dict(metadata or {})), object_pairs_hook=first_version.once)
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


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the size of a stream is a whole number of bytes, not {value!r}")
    return value


def _blocks(about: list[Any], body: memoryview) -> list[Block]:
    split = [(own, [_size(n) for n in sizes]) for *own, sizes in about]
    needed = sum(sum(sizes) for _, sizes in split)
    if needed != len(body):
        raise ValueError(f"its header tells of {needed} bytes after it, and there are {len(body)}")
    blocks, at = [], 0
    for own, sizes in split:
        streams = []
        for size in sizes:
            streams.append(body[at : at + size])
            at += size
        blocks.append(Block(own, streams))
    return blocks
