"""Signals: SIGTERM ends a script as Ctrl-C does, and neither cuts through a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(BaseException):
    """The run was asked to stop; its state is saved."""


@contextlib.contextmanager
def stopping_on_sigterm(message: str) -> Iterator[None]:
    """Raises :class:`Stopped` in the block on SIGTERM, so that processes that it started end with it."""

    def stop(*_: Any) -> None:
        raise Stopped(message)

    with _handled({signal.SIGTERM: stop}):
        yield


@contextlib.contextmanager
def postponed(alone: bool = True) -> Iterator[None]:
    """Holds SIGINT and SIGTERM back until the block has ended; a second one of the same kind cuts through.

    A KeyboardInterrupt amid other libraries' threads and event loops shows their tracebacks.

    Args:
      alone: False with several hosts, where SIGTERM belongs to JAX's preemption service.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        if number in received and callable(previous[number]):
            previous[number](number, frame)
        received.append(number)

    with _handled({signal.SIGINT: note} | ({signal.SIGTERM: note} if alone else {}), previous):
        yield
    for number in dict.fromkeys(received):
        signal.raise_signal(number)


@contextlib.contextmanager
def _handled(handlers: dict[int, Any], previous: dict[int, Any] | None = None) -> Iterator[None]:
    """Sets handlers for the block; elsewhere than in the main thread, which alone gets signals, it does nothing.

    A handler that C code has set (None to Python), as JAX's preemption service does, is left in its place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = previous if previous is not None else {}
    before |= {number: signal.getsignal(number) for number in handlers}
    own = {number: handler for number, handler in handlers.items() if before[number] is not None}
    for number, handler in own.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, before[number])
