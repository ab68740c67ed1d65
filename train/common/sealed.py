"""Small JSON files and lines that tell every altered byte: each closes with a checksum of what precedes it."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from train.common.errors import UserError

KEY = "sha256"
"""The last key of a sealed file."""


def digest(fields: Any) -> str:
    """SHA-256 of JSON-able fields, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def sealed(fields: dict[str, Any], indent: int | None = 2) -> bytes:
    """The text of a sealed file.

    Example:
      >>> print(sealed({"seed": 0}).decode())  # doctest: +ELLIPSIS
      {
        "seed": 0,
        "sha256": "..."
      }
    """
    return json.dumps({**fields, KEY: digest(json.loads(json.dumps(fields)))}, indent=indent).encode()


def unsealed(text: bytes | str) -> dict[str, Any]:
    """The fields of a sealed file.

    Raises:
      ValueError: if they are not what was sealed; it says why.
    """
    fields = json.loads(text)  # its errors, of text and of encoding, are ValueErrors
    if not isinstance(fields, dict) or KEY not in fields:
        raise ValueError(f"it has no {KEY!r}")
    if fields.pop(KEY) != digest(fields) or sealed(fields) != (text.encode() if isinstance(text, str) else text):
        raise ValueError("its checksum does not hold")
    return fields


def read(path: Path, then: str) -> dict[str, Any]:
    """The fields of a sealed file.

    Args:
      path: the file, which exists.
      then: what happens when it is deleted: the end of "Delete that file: ...".

    Raises:
      UserError: if it is damaged; what to do is said.
    """
    try:
        return unsealed(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}).\nDelete that file: {then}") from error


def write(path: Path, fields: dict[str, Any]) -> None:
    """Writes a sealed file, whole or not at all."""
    from jaxcomp.core.files import write_atomically  # JAX comes with it, and reading has no need of it

    write_atomically(path, sealed(fields))


def line(record: dict[str, Any]) -> str:
    """A line of a file that grows: a record, and the CRC-32 of its text.

    Example:
      >>> line({"step": 4})
      '{"step": 4, "crc32": "47f06578"}\\n'
    """
    text = json.dumps(record)
    return f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def unlined(text: str) -> dict[str, Any]:
    """The record of a line, given without its end.

    Raises:
      ValueError: if it is not what was written.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("it is no record")
    record.pop("crc32", None)
    if line(record) != f"{text}\n":
        raise ValueError("its checksum does not hold")
    return record
