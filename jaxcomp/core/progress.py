"""Progress of calls that take long: one line on stderr, rewritten in place, gone when the call returns."""

import functools
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TextIO, TypeVar

from jaxcomp.core.errors import ArgumentError

Tell = Callable[[int, int, str], Any]
"""``(done, total, what is done now)``."""

Progress = Tell | bool | None
"""Progress shown: by a function; True, False: by a line on stderr, or not; None: see :func:`shows_progress`."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

QUIET_SECONDS = 2.0
"""Calls that are over sooner show nothing unless they are asked to."""


class Line:
    """The last step told, with the time since the start, written by a thread of its own: compilation takes minutes."""

    def __init__(self, name: str, stream: TextIO, after: float):
        """Takes the call's name, where the line goes, and after how many seconds it appears."""
        self._name, self._stream, self._after, self._start = name, stream, after, time.monotonic()
        self._told, self._width, self._over = "", 0, threading.Event()
        # A file has lines one below the other, and few of them.
        self._end, self._pause = ("\r", 0.2) if _rewrites(stream) else ("\n", 10.0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Tell:
        self._thread.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._width:
            self._write("", "\r")

    def _tell(self, done: int, total: int, what: str) -> None:
        self._told = f"{done}/{total} {what}"

    def _run(self) -> None:
        pause = self._after
        while not self._over.wait(pause):
            pause = self._pause
            seconds = int(time.monotonic() - self._start)
            room = shutil.get_terminal_size().columns - 1
            self._write(f"{self._name} {seconds // 60}:{seconds % 60:02} {self._told}".rstrip()[:room], self._end)

    def _write(self, text: str, end: str) -> None:
        try:
            self._stream.write(text.ljust(self._width) + end)
            self._stream.flush()
        except (OSError, ValueError):  # closed meanwhile: no reason for the call to end
            self._over.set()
        self._width = len(text) if self._end == "\r" else 0


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function's argument ``progress=`` show how far its call is.

    None: a line on stderr from the second second on, if that is a terminal or a notebook's, and not under pytest. True:
    from the start, wherever stderr goes (line by line in a file). False: nothing. Or a function of
    ``(done, total, what)``, called before each step, and with ``done == total`` at the end of each of the call's parts.

    Args:
      function: takes ``progress=``, of which :func:`told` makes what it calls.

    Raises:
      ArgumentError: from the call, for a ``progress=`` of another kind.

    Example:
      >>> @shows_progress
      ... def doubled(xs, *, progress: Progress = None):
      ...     for i, x in enumerate(xs):
      ...         told(progress)(i, len(xs), f"number {x}")
      ...     return [2 * x for x in xs]
      >>> doubled([3, 4], progress=lambda done, total, what: print(done, total, what))
      0 2 number 3
      1 2 number 4
      [6, 8]
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        progress: Any = kwargs.get("progress")
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise ArgumentError(
                f"progress= must be None, True, False or a function of (done, total, what); got {progress!r}"
            )
        shown = progress is True or (progress is None and _rewrites(sys.stderr) and not _under_pytest())
        if not shown:
            return function(*args, **kwargs)
        with Line(function.__name__, sys.stderr, 0.0 if progress else QUIET_SECONDS) as tell:
            kwargs["progress"] = tell
            return function(*args, **kwargs)

    return call


def told(progress: Progress) -> Tell:
    """Returns the function to call with each step ``(done, total, what)``; one that does nothing without progress.

    Example:
      >>> told(None)(1, 2, "layer")
    """
    return progress if callable(progress) else lambda done, total, what: None


def steps(items: Sequence[T], progress: Progress, what: str) -> Iterator[T]:
    """Yields items one after another, and reports each as a step.

    Args:
      items: a sequence.
      progress: True for a line in the terminal, a function ``(done, total, what)``, or None.
      what: the name of the steps.

    Example:
      >>> list(steps("ab", print, "letters"))
      0 2 letters
      1 2 letters
      2 2 letters
      ['a', 'b']
    """
    tell, total = told(progress), len(items)
    for done, item in enumerate(items):
        tell(done, total, what)
        yield item
    tell(total, total, what)


def _rewrites(stream: Any) -> bool:
    """Whether a stream is a terminal or a notebook's, in which a line can be written over."""
    notebook = type(stream).__module__.partition(".")[0] == "ipykernel"
    try:
        return notebook or bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False


def _under_pytest() -> bool:
    return "PYTEST_CURRENT_TEST" in os.environ
