"""What was read once of a large set, its labels and checksum: known again while its files stay as they are.

An array_record file gives up no label without its image: ImageNet's are read with 150 GB. They are kept in the user's
cache, for the paths, sizes and times of the files that they come from.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from train.common import sealed
from train.common.checks import warn

_END = b"\n}\n"
"""Of what is said of labels, before they come."""
LEAST = 2**28
"""Bytes of files from which on it is worth to know them again; smaller ones are read each time."""


def cache() -> Path:
    """The folder of this user that what can be had again is kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxcomp"


def labels(
    where: str, files: Sequence[str | os.PathLike[str]], about: str, read: Callable[[], tuple[np.ndarray, str]]
) -> tuple[np.ndarray, str]:
    """Returns the labels of a split and the checksum of its records, read or known.

    Args:
      where: the split, for messages.
      files: that it is in.
      about: what else tells what is read: other words, other labels.
      read: reads both.

    Returns:
      ``[n]`` integers, and a SHA-256 in hexadecimal digits.

    Raises:
      UserError: what ``read`` raises.
    """
    try:
        stats = [Path(file).stat() for file in files]
    except OSError:  # they are elsewhere
        return read()
    if sum(each.st_size for each in stats) < LEAST:
        return read()
    held = [[str(Path(file).absolute()), s.st_size, s.st_mtime_ns] for file, s in zip(files, stats, strict=True)]
    path = cache() / "labels" / sealed.digest([about, *held])
    found = _kept(path)
    if found is None:
        from train.common.progress import waiting  # JAX comes with it

        with waiting(f"reading {where} once, for its labels"):
            found = read()
        _keep(path, *found)
    return found


def _kept(path: Path) -> tuple[np.ndarray, str] | None:
    """What a file says, if it is there and whole."""
    try:
        head, end, content = path.read_bytes().partition(_END)
        said = sealed.unsealed(head + end[:-1])
        if said["content"] == hashlib.sha256(content).hexdigest():
            return np.frombuffer(content, said["dtype"]).copy(), said["digest"]
    except (OSError, ValueError, KeyError, TypeError):  # it is read anew
        pass
    return None


def _keep(path: Path, labels: np.ndarray, digest: str) -> None:
    from jaxcomp.core.files import write_atomically  # JAX comes with it

    content = labels.tobytes()
    head = {"dtype": labels.dtype.str, "digest": digest, "content": hashlib.sha256(content).hexdigest()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, sealed.sealed(head) + b"\n" + content)
    except OSError as error:
        warn(f"{path} cannot be written ({error.strerror}): the next run will read all records for their labels again")
