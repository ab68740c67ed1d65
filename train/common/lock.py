"""One process at a time in a run folder: a lock of the system, which ends with its process, and a note that says whose.

The note is ``.lock`` in the folder. Over network file systems the lock reaches as far as they carry ``flock``.
"""

import atexit
import contextlib
import datetime
import errno
import getpass
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from train.common.errors import UserError

NAME = ".lock"
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # file systems that have no locks
_held: dict[Path, int] = {}  # the open note of each folder that this process holds


def take(workdir: Path) -> None:
    """Takes a folder, which exists, until this process ends or :func:`release`; one that it holds it keeps.

    Raises:
      UserError: if another process has it: which, since when, and what to do.
      OSError: if nothing can be written there.
    """
    folder = workdir.resolve()
    while folder not in _held:
        note = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(note, workdir):
            words = _whose(note)
            os.close(note)
            raise UserError(
                f"{workdir} is in use by {words}.\nWait for its end, stop it, or name another --workdir. After a crash "
                f"the folder is free by itself; if its host is gone and it is not, delete {workdir / NAME}."
            )
        if not _is(folder / NAME, note):  # its last holder has deleted it in between
            os.close(note)
            continue
        os.truncate(note, 0)
        os.write(note, json.dumps(_us()).encode())
        _held[folder] = note


def release(workdir: Path) -> None:
    """Gives a folder back, if this process holds it."""
    folder = workdir.resolve()
    if (note := _held.pop(folder, None)) is not None:
        with contextlib.suppress(OSError):  # deleting comes first: whoever waits then sees that the note is not its own
            if _is(folder / NAME, note):
                (folder / NAME).unlink()
        os.close(note)


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(folder)


def check(workdir: Path) -> None:
    """Makes sure, before something is written, that a folder is there and, once it was taken, is still this process's.

    Raises:
      UserError: if not.
    """
    note = _held.get(workdir.resolve())
    if not workdir.is_dir() or (note is not None and not _is(workdir / NAME, note)):
        raise UserError(
            f"{workdir} was removed, replaced, or taken over by another process while this one ran in it: nothing more "
            "is written there. Run the same command to start again or, if another runs, wait for its end."
        )


def _is(path: Path, note: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(note))
    except FileNotFoundError:
        return False


def _us() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        user = str(getattr(os, "getuid", lambda: "?")())
    since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "user": user, "host": socket.gethostname(), "since": since}


def _whose(note: int) -> str:
    try:
        them = json.loads(os.pread(note, 4096, 0) if hasattr(os, "pread") else os.read(note, 4096))
        return "process {pid} of user {user} on {host} since {since}".format(**them)
    except (ValueError, KeyError, TypeError, OSError):  # it has only just begun
        return "another process"


def _locked(note: int, workdir: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return _locked_on_windows(note)
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        print(f"warning: {workdir} cannot be locked ({error}): let no other process write there", file=sys.stderr)
    return True


def _locked_on_windows(note: int) -> bool:
    import msvcrt

    os.lseek(note, 2**20, os.SEEK_SET)  # far behind the note: what is locked there nobody else can read
    try:
        msvcrt.locking(note, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    finally:
        os.lseek(note, 0, os.SEEK_SET)
    return True
