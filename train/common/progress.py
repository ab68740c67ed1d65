"""Progress in the terminal: a bar with loss, accuracy and sparsity. Silent where nobody watches."""

import sys
from typing import Any

import jax


class Progress:
    """A bar for one phase, on a terminal; nothing elsewhere.

    Args:
      name: the phase.
      total: steps in all.
      done: steps that an earlier run made.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self._bar = None
        if sys.stderr.isatty() and jax.process_index() == 0:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("[bold]{task.description:<8}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=total, completed=done, shown="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        """One step more."""
        if self._bar:
            self._bar.advance(self._task)

    def show(self, record: dict[str, Any]) -> None:
        """Shows the numbers of a metrics record."""
        if self._bar:
            shown = [f"loss {record['loss']:.3f}", f"accuracy {record['accuracy']:.3f}"]
            more = {"test": "test_accuracy", "sparsity": "sparsity"}  # short: all of it fits into 100 columns
            shown += [f"{name} {record[key]:.3f}" for name, key in more.items() if key in record]
            self._bar.update(self._task, shown="  ".join(shown))
