"""How scripts end: with one clear message, without a traceback, for what the person at the command line can mend.

Nothing of JAX is imported here: what can be told without it is told at once.
"""

import contextlib
import errno
import sys
from collections.abc import Callable, Iterator
from typing import Any

from train.common.signals import Stopped, stopping_on_sigterm

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GO_ON = "run the same command to continue"


class UserError(Exception):
    """Something that the person at the command line can mend; the message says how."""


def exit_status(job: Callable[[], Any]) -> int:
    """Runs a script's job.

    Returns:
      0; 1 with the message on stderr for what the user can mend; 130 (128 + SIGINT) for Ctrl-C and 143
      (128 + SIGTERM, by which a supervisor knows the reason) for a run that was asked to stop.
    """
    try:
        with stopping_on_sigterm(f"stopped by SIGTERM; what was saved is kept: {GO_ON}"), _put_in_buckets():
            job()
    except Stopped as stopped:
        print(_as_given(str(stopped)), file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(f"interrupted; what was saved is kept: {GO_ON} from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if (message := explained(error)) is None:
            raise
        print(f"error: {_as_given(message)}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _put_in_buckets() -> Iterator[None]:
    """Puts there what the block has written, however it ends; of two failures its own is the one that is raised."""
    try:
        yield
    except BaseException as ended:
        try:
            _push_all()
        except Exception as error:
            if str(error) != str(ended):
                print(f"note: {_as_given(explained(error) or first_line(error))}", file=sys.stderr)
        raise
    _push_all()


def _push_all() -> None:
    if mirror := sys.modules.get("train.common.mirror"):
        mirror.push_all()


def _as_given(message: str) -> str:
    """A message with the addresses that the user gave, in place of what this machine works in."""
    mirror = sys.modules.get("train.common.mirror")
    return mirror.shown(message) if mirror else message


def explained(error: BaseException) -> str | None:
    """Returns what to tell the user of an error; None for a mistake of the program, whose traceback is needed."""
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{disk_is_full(error.filename or 'a file')}; what was saved is kept. Free some space, then {GO_ON}."
    if isinstance(error, (UserError, OSError)):
        return str(error)
    ours = sys.modules.get("jaxcomp.core.errors")  # only what is imported can have raised it
    return str(error) if ours and isinstance(error, ours.JaxcompError) else None


def first_line(error: BaseException, limit: int = 300) -> str:
    """The type of an error and the first line of its words."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:limit]}"


def disk_is_full(what: Any) -> str:
    """The words for a file that no space was left for."""
    return f"the disk is full, or the quota used up: {what} could not be written"


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that no space was left to write to; also as TensorStore says it."""
    words = ("No space left on device", "Disk quota exceeded", "File too large")
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in FULL) or any(word in str(seen) for word in words):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
