"""Batches made ahead of the step that learns from them, on a thread of their own, and how long steps wait for them."""

import collections
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from train.common.checks import warn

AHEAD = 2
"""Batches that are made, and on the devices, before the step asks for them."""
SHARE, SECONDS = 0.1, 10.0
"""Of a phase, from which on waiting is told."""


class Feed:
    """Batches of consecutive steps; a context.

    Args:
      make: ``step -> batch``, a pure function: a run that goes on at a step sees the same batches.
      first: step.
      last: one behind the last step.

    Attributes:
      idle: seconds for which devices had nothing to do, as a batch was not there.
    """

    def __init__(self, make: Callable[[int], Any], first: int, last: int) -> None:
        self._make, self._steps, self.idle = make, iter(range(first, last)), 0.0
        self._coming: collections.deque[Future] = collections.deque()
        self._began = time.monotonic()

    def __enter__(self) -> "Feed":
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        for _ in range(AHEAD):
            self._order()
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _order(self) -> None:
        for step in self._steps:
            self._coming.append(self._thread.submit(self._make, step))
            return

    def take(self, before: jax.Array) -> Any:
        """The batch of the next step.

        Args:
          before: any result of the step before: devices that have it are idle until the batch is there.

        Raises:
          Exception: whatever making the batch has raised.
        """
        since = time.monotonic()
        batch = self._coming.popleft().result()
        if getattr(before, "is_ready", lambda: True)():  # what was never on a device is
            self.idle += time.monotonic() - since
        self._order()
        return batch

    def tell(self, phase: str) -> None:
        """Warns of a phase whose devices stood idle for want of images."""
        whole = time.monotonic() - self._began
        if self.idle > max(SECONDS, SHARE * whole):
            warn(
                f"{phase}: the input is the bottleneck: devices waited for images for {self.idle:.0f} of {whole:.0f} s "
                f"({self.idle / whole:.0%}). More cores to decode on, or images stored at about the size that is "
                "trained on, make it faster; python -m train.bench input measures what this machine decodes"
            )
