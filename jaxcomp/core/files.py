"""Files that are written whole or not at all."""

import os
import secrets
from pathlib import Path

from jaxcomp.core.errors import ArgumentError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file under a temporary name beside it, and renames it once it is on disk.

    A reader finds the old file or the new one, and a failure or a kill leaves the old one as it was.

    Args:
      path: the file.
      content: all of its bytes.

    Raises:
      ArgumentError: if there is no folder to hold it.
      OSError: if it cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
      >>> write_atomically(file, b"whole")
      >>> file.read_bytes()
      b'whole'
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ArgumentError(f"{path}: cannot be written, there is no folder {path.parent}: create it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
