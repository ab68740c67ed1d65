"""Memory that was freed, and where it goes."""

import ctypes
import functools
import os
from typing import Any


def give_back() -> None:
    """Gives freed memory back to the system, where the C library (GNU's) would keep it.

    It keeps what is freed for arrays to come, apart for each thread that asked; XLA's threads ask for ever other sizes,
    so that a network walked layer by layer comes to hold twice what is in use. Costs a tenth of a millisecond.

    Example:
      >>> give_back()
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Any:
    """The C library's function; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
