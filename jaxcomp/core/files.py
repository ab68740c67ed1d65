"""Files that are written whole or not at all, on this machine or in a bucket."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from jaxcomp.core import buckets
from jaxcomp.core.errors import ArgumentError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], kept: str = "") -> Iterator[None]:
    """Gives the system's errors in the block the name of the file that it writes: of a write they have none.

    Args:
      path: the file.
      kept: of a full disk: what is left, and what to do.

    Example:
      >>> import errno
      >>> with naming("note.txt", "; the old note is kept"):
      ...     raise OSError(errno.ENOSPC, "No space left on device")
      Traceback (most recent call last):
      OSError: [Errno 28] No space left on device; the old note is kept: 'note.txt'
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
        if error.errno in _FULL:
            error.strerror = f"{error.strerror}{kept}"
        raise


def write_atomically(path: str | os.PathLike[str], content: bytes | Iterable[bytes]) -> None:
    """Writes a file under a temporary name beside it, and renames it once it is on disk.

    A reader finds the old file or the new one, and a failure or a kill leaves the old one as it was. A file that is
    replaced keeps its permissions and its owner; through a symbolic link the file that it points to is replaced.

    Args:
      path: the file; ``gs://...`` and other addresses that fsspec opens are storage's to keep whole.
      content: all of its bytes, in one or in parts.

    Raises:
      ArgumentError: if there is no folder to hold it, or it is a folder or a device.
      OSError: if it cannot be written; it names ``path``.
      MissingExtraError: if what opens such an address is not installed; it says how to install it.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
      >>> write_atomically(file, b"whole")
      >>> file.read_bytes()
      b'whole'
    """
    if address := buckets.url(path):
        buckets.write(address, content if isinstance(content, bytes) else b"".join(content))
        return
    given, path = path, Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        kind = "a folder: give the name of a file in it" if path.is_dir() else "a device or a pipe: give another name"
        raise ArgumentError(f"{path}: needs to be a file and is {kind}")
    if not path.parent.is_dir():
        raise ArgumentError(f"{path}: cannot be written, there is no folder {path.parent}: create it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(given, "; what stood there before is as it was: free some space and write it again"):
            with open(temporary, "xb", opener=_as_private_as(path)) as file:
                _keep_mode(path, temporary)
                for part in (content,) if isinstance(content, bytes) else content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> bytes:
    """Reads all bytes of a file, on this machine or in a bucket.

    Args:
      path: the file, as :func:`write_atomically` takes it.

    Raises:
      OSError: if it cannot be read.
      MissingExtraError: if what opens such an address is not installed; it says how to install it.
    """
    address = buckets.url(path)
    return buckets.read(address) if address else Path(path).read_bytes()


def size(path: str | os.PathLike[str]) -> int:
    """Counts the bytes of a file, as :func:`read` finds it.

    Raises:
      As :func:`read`.
    """
    address = buckets.url(path)
    return buckets.size(address) if address else os.path.getsize(path)


def _as_private_as(path: Path) -> Callable[[str, int], int]:
    """Opens a file that nobody can read who cannot read ``path``, not even before its permissions are set."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666
    return lambda name, flags: os.open(name, flags, mode)


def _keep_mode(path: Path, temporary: Path) -> None:
    if not path.exists():
        return
    old, new = path.stat(), temporary.stat()
    if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(PermissionError):  # only root may give files away
            os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(stat.S_IMODE(old.st_mode))
