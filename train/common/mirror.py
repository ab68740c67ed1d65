"""Run folders and data in buckets: this machine works in a copy, and what is whole in it is put into the bucket.

    --workdir=gs://bucket/run --data_dir=gs://bucket/tfds

A file is put there at once (storage shows it whole or not at all), a checkpoint with the checksums of its files last:
without them it does not count. A kill at any moment leaves what was there before, or what is new. Buckets have no
locks: who comes last has the folder, and who had it before notices when it saves, and stops.
"""

import atexit
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from train.common import known
from train.common.errors import UserError

NOTE = "held_by.json"
"""Says, in the bucket, which process has the folder."""
LAST = "checksums.json"
"""Of a folder that counts as a whole: the file that is put last, and taken away first."""
_open: "dict[Path, Mirror]" = {}


def folder(path: str | os.PathLike[str]) -> Path:
    """The run folder of this machine to work in: the path itself or, of an address, a copy that ends with the process.

    Raises:
      OSError: if the address cannot be read.
    """
    if (address := _address(path)) is None:
        return Path(path)
    known = next((local for local, mirror in _open.items() if mirror.address == address), None)
    if known is None:
        known = Path(tempfile.mkdtemp(prefix=f"{address.rsplit('/', 1)[-1]}-"))
        atexit.register(shutil.rmtree, known, ignore_errors=True)
        _open[known] = Mirror(address, known)
        _open[known].pull()
    return known


def data_folder(path: str | None, name: str) -> str | None:
    """The folder of this machine that holds a data set: the path itself or, of an address, a copy that stays.

    Args:
      path: of the folder of data sets; None: what TFDS_DATA_DIR says, if it is an address.
      name: of the set's folder in it; nothing else is read.

    Raises:
      OSError: if the address cannot be read.
    """
    address = _address(path or os.environ.get("TFDS_DATA_DIR", ""))
    return path if address is None else str(Path(copied(f"{address}/{name}")).parent)


def copied(path: str) -> str:
    """A folder of data on this machine: the path itself or, of an address, a copy that stays.

    Raises:
      UserError: if there is nothing at the address.
      OSError: if it cannot be read.
    """
    if (address := _address(path)) is None:
        return path
    above, _, name = address.rpartition("/")
    local = known.cache() / f"{above.rsplit('/', 1)[-1]}-{hashlib.sha256(above.encode()).hexdigest()[:12]}" / name
    print(f"copying {address} to {local}, as far as it is not there", file=sys.stderr)
    Mirror(address, local).pull(alone=True)
    if not any(local.iterdir()):
        raise UserError(f"{address}: there is nothing: prepare the data, and copy their folder there")
    return str(local)


def _address(path: str | os.PathLike[str]) -> str | None:
    if ":/" not in os.fspath(path):
        return None
    from jaxcomp.core.buckets import url  # JAX comes with it

    return (url(path) or "").rstrip("/") or None


def absolute(path: str) -> str:
    """A path that is the same from every folder; an address is one already."""
    return _address(path) or str(Path(path).absolute())


def shown(words: str) -> str:
    """Words with each copy's path as the user knows it: its address."""
    for local, mirror in _open.items():
        words = words.replace(str(local), mirror.address)
    return words


def note(path: Path) -> str | None:
    """Which process has a folder in a bucket, in words; None for another."""
    return f"{_open[path].note()}" if path in _open else None


def push(path: Path) -> None:
    """Puts into the bucket what has changed in a copy, or in that which a path is in; what is no copy is left as it is.

    Raises:
      UserError: if another process has taken the folder over.
      OSError: if the bucket cannot be written.
    """
    for mirror in _holding(path):
        mirror.push()


def refresh(path: Path) -> None:
    """Reads into a copy what another host of the run has put into the bucket since; below it, a path will do."""
    for mirror in _holding(path):
        mirror.pull()


def _holding(path: Path) -> "list[Mirror]":
    return [mirror for local, mirror in _open.items() if local == path or local in path.parents]


def push_all() -> None:
    """As :func:`push`, of all folders that this process has taken."""
    for mirror in _open.values():
        if mirror.token:
            mirror.push()


def take(path: Path) -> None:
    """Takes a folder in a bucket: from now on what another process does there ends with a sentence."""
    if mirror := _open.get(path):
        mirror.take()


class Mirror:
    """A folder in a bucket, and its copy.

    Attributes:
      address: of the folder, without a slash at its end.
      local: the copy.
      token: by which this process knows the folder as its own; empty before :meth:`take`.
    """

    def __init__(self, address: str, local: Path) -> None:
        self.address, self.local, self.token = address, local, ""
        self._put: dict[str, tuple[int, int]] = {}  # what the bucket holds: time and size of the file here

    def pull(self, *, alone: bool = False) -> None:
        """Reads what the bucket holds and the copy does not, but what is left of checkpoints that are not whole.

        Args:
          alone: whether what the bucket does not hold is taken out of the copy.

        Raises:
          UserError: for a name in the bucket that leads out of the copy.
        """
        from jaxcomp.core import buckets

        there = buckets.listed(self.address)
        whole = {_unit(name) for name in there if name.endswith(LAST)} | {None}
        self.local.mkdir(parents=True, exist_ok=True)
        wanted = {name: own for name, own in there.items() if name != NOTE and _unit(name) in whole}
        for name in wanted:
            _check_inside(self.address, self.local, name)
        missing = {name: own.version for name, own in wanted.items() if not self._has(name, *own)}
        self._each(lambda name: self._fetch(name, missing[name]), list(missing))
        here = self._here()
        for name in here.keys() - there.keys() if alone else ():
            self._drop(self.local / name)
        self._put = {name: here.get(name, (0, 0)) for name in there if name != NOTE}

    def _has(self, name: str, size: int, version: str) -> bool:
        path = self.local / name
        if not path.is_file():
            return False
        stat = path.stat()
        return (stat.st_mtime_ns, stat.st_size) == (_time_of(version), size)

    def _drop(self, path: Path) -> None:
        """Takes a file away, and folders that are empty without it: they would count as classes."""
        path.unlink(missing_ok=True)
        for above in path.parents[: len(path.relative_to(self.local).parts) - 1]:
            with contextlib.suppress(OSError):
                above.rmdir()

    def take(self) -> None:
        """Writes the note by which this process has the folder."""
        before = self.note()
        self.token = secrets.token_hex(8)
        about = {"token": self.token, "pid": os.getpid(), "host": socket.gethostname()}
        self._write(NOTE, json.dumps(about).encode())
        if before:
            print(
                f"note: {self.address} was held by process {before.get('pid')} on {before.get('host')}; if that still "
                "runs, it stops when it saves next",
                file=sys.stderr,
            )

    def push(self) -> None:
        """Puts there what has changed here, folders that count as a whole last, and takes away what is gone."""
        if (self.note() or {}).get("token") != self.token:
            raise UserError(
                f"{self.address} was taken over by another process, or removed, while this one ran in it: nothing more "
                "is written there. Run the same command to start again or, if another runs, wait for its end."
            )
        from jaxcomp.core import buckets

        here = self._here()
        changed = [name for name, stamp in here.items() if self._put.get(name) != stamp]
        gone = [name for name in self._put if name not in here]
        last = [name for name in changed if _unit(name) and name.endswith(LAST)]
        self._each(self._send, [name for name in changed if name not in last])
        self._each(self._send, last)
        for name in sorted(gone, key=lambda name: not name.endswith(LAST)):
            buckets.remove(f"{self.address}/{name}")
        self._put = here

    def _here(self) -> dict[str, tuple[int, int]]:
        """The files of the copy that count: none under a temporary name, none of a checkpoint without checksums."""
        found = {}
        for path in self.local.rglob("*"):
            name = path.relative_to(self.local).as_posix()
            hidden = any(part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in name.split("/"))
            if path.is_file() and not hidden:
                unit = _unit(name)
                if unit is None or (self.local / unit / LAST).exists():
                    stat = path.stat()
                    found[name] = (stat.st_mtime_ns, stat.st_size)
        return found

    def note(self) -> dict[str, Any] | None:
        """Which process has the folder; None if none had it yet."""
        try:
            return json.loads(self._read(NOTE))
        except (FileNotFoundError, ValueError):
            return None

    def _read(self, name: str) -> bytes:
        from jaxcomp.core import buckets

        return buckets.read(f"{self.address}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        from jaxcomp.core import buckets

        buckets.write(f"{self.address}/{name}", content)

    def _fetch(self, name: str, version: str) -> None:
        path = self.local / name
        content = self._read(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # another process may fetch it as well
        temporary.write_bytes(content)
        os.utime(temporary, ns=(_time_of(version),) * 2)
        os.replace(temporary, path)

    def _send(self, name: str) -> None:
        self._write(name, (self.local / name).read_bytes())

    def _each(self, do: Any, names: list[str]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(do, names))


def _time_of(version: str) -> int:
    """The nanoseconds, whole seconds, that a copied file has for its time of change: they stand for its version."""
    return int(hashlib.sha256(version.encode()).hexdigest()[:7], 16) * 10**9


def _check_inside(address: str, local: Path, name: str) -> None:
    if not Path(os.path.abspath(local / name)).is_relative_to(os.path.abspath(local)):
        raise UserError(f"{address} holds {name!r}, which leads out of the folder: remove it, or name another address")


def _unit(name: str) -> str | None:
    """The folder that a file is a part of and that counts as a whole: a checkpoint, named by its step."""
    parts = name.split("/")
    where = next((at for at, part in enumerate(parts[:-1]) if part.isdigit() and "checkpoints" in parts[:at]), None)
    return None if where is None else "/".join(parts[: where + 1])
