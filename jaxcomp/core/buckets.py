"""Files in buckets, ``gs://`` and ``s3://``: read and written whole, by fsspec, which is imported only for them."""

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxcomp.core.errors import ArgumentError, MissingExtraError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(/+)(.*)", re.DOTALL)
_CLIENTS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_CLIENTS |= {"http": "aiohttp", "https": "aiohttp"}
_AT_ONCE = {"gs", "gcs", "s3", "az", "abfs", "hf", "memory"}  # storage shows a file once all of it has arrived
_VERSIONS = ("generation", "etag", "ETag", "LastModified", "last_modified", "mtime", "created")


class _Once(logging.Filter):
    """Lets each place of a client's code warn once: gcsfs warns at every use of a bucket that it may not look up."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        place = record.pathname, record.lineno
        new = record.levelno != logging.WARNING or place not in self._warned
        self._warned.add(place)
        return new


_ONCE = _Once()


def url(path: str | os.PathLike[str]) -> str | None:
    """Tells the address that a path is; None for one of a file system.

    Slashes that ``pathlib`` has taken of it are put back.

    Example:
      >>> import pathlib
      >>> url(pathlib.PurePosixPath("gs://bucket/run")), url("C:/run"), url("run")
      ('gs://bucket/run', None, None)
      >>> url("file:///run"), url("hdfs:///run")
      ('file:///run', 'hdfs:///run')
    """
    found = _SCHEME.fullmatch(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    if not found:
        return None
    scheme, slashes, rest = found.groups()
    slashes = "///" if scheme in ("file", "local") else slashes if len(slashes) > 1 else "//"
    return f"{scheme}:{slashes}{rest}"


@contextlib.contextmanager
def opened(address: str) -> Iterator[tuple[Any, str]]:
    """Yields what fsspec opens an address with, and the path there; errors get one type, and name the address.

    Raises:
      ArgumentError: for a scheme that fsspec does not know.
      MissingExtraError: without fsspec, or without the client of that storage; it says how to install it.
      FileNotFoundError: if there is no such file or bucket.
      OSError: for all else: no permission, no network.
    """
    try:
        import fsspec

        logging.getLogger("gcsfs").addFilter(_ONCE)
        yield fsspec.core.url_to_fs(address)
    except ImportError as error:
        scheme = address.split("://")[0]
        client = f" {_CLIENTS[scheme]}" if scheme in _CLIENTS else ""
        raise MissingExtraError(f"{address} needs a client of that storage: pip install fsspec{client}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{address}: there is no such file, or no such bucket") from error
    except Exception as error:  # each client has its own
        if "Protocol not known" in str(error):
            raise ArgumentError(f"{address}: needs to be a path, or an address of gs://, s3:// or the like") from error
        words = (str(error).strip().splitlines() or [""])[0][:300]
        raise OSError(
            f"{address} cannot be used ({type(error).__name__}: {words}): see that the bucket is there and that you "
            "may read and write it"
        ) from error


def read(address: str) -> bytes:
    """Reads all bytes of a file.

    Args:
      address: its place, such as ``"gs://bucket/run/model.jcz"``.

    Raises:
      As :func:`opened`.
    """
    with opened(address) as (storage, path):
        return storage.cat_file(path)


def write(address: str, content: bytes) -> None:
    """Writes content to an address, whole or not at all: under another name first where storage shows what arrives.

    Raises:
      As :func:`opened`.
    """
    with opened(address) as (storage, path):
        if address.split("://")[0] in _AT_ONCE:
            storage.pipe_file(path, content)
        else:
            storage.pipe_file(torn := f"{path}.{secrets.token_hex(4)}.tmp", content)
            storage.mv(torn, path)


def size(address: str) -> int:
    """Counts the bytes of a file.

    Args:
      address: its place, as of :func:`read`.

    Raises:
      As :func:`opened`.
    """
    with opened(address) as (storage, path):
        return int(storage.size(path))


def remove(address: str) -> None:
    """Removes a file; one that is gone already is as well.

    Raises:
      As :func:`opened`, but FileNotFoundError.
    """
    with contextlib.suppress(FileNotFoundError), opened(address) as (storage, path):
        storage.rm_file(path)


def sizes(address: str) -> dict[str, int]:
    """Counts the bytes of each file below an address, by its name there; none where there is nothing.

    Raises:
      As :func:`opened`.
    """
    return {name: own.size for name, own in listed(address).items()}


class Listed(NamedTuple):
    """A file as storage lists it.

    Attributes:
      size: in bytes.
      version: what is another once the file is written anew, as far as the storage tells: a number, a tag or a time.
    """

    size: int
    version: str


def listed(address: str) -> dict[str, Listed]:
    """Lists each file below an address, by its name there; none where there is nothing. Folders' own entries are none.

    Raises:
      As :func:`opened`.
    """
    with opened(address) as (storage, path):
        storage.invalidate_cache()
        found = storage.find(path, detail=True)
        start = len(path.rstrip("/")) + 1
        return {
            name[start:]: Listed(int(about["size"]), next((str(about[key]) for key in _VERSIONS if about.get(key)), ""))
            for name, about in found.items()
            if name[start:] and not name.endswith("/") and about.get("type") != "directory"
        }
