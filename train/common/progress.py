"""Progress in the terminal: what is being done, and for how long. Silent where nobody watches."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax


def watched() -> bool:
    """Whether somebody watches this process: a terminal, and of several hosts the first."""
    return sys.stderr.isatty() and jax.process_index() == 0


def _bar(*columns: Any, **options: Any) -> Any:
    from rich.console import Console
    from rich.progress import Progress as Bar

    return Bar(*columns, console=Console(stderr=True), **options)


class Progress:
    """A bar for one phase, on a terminal, as wide as it; nothing elsewhere.

    Args:
      name: the phase.
      total: steps in all.
      done: steps that an earlier run made.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self._bar, self.doing_since = None, ("", 0.0)
        if watched():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.table import Column

            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(None),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
            )
            self._bar = _bar(*columns, TimeRemainingColumn(compact=True), _said(self), expand=True)
            self._task = self._bar.add_task(name, total=total, completed=done, numbers="")

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
            # Short, so that all of it fits into 80 columns.
            tests = dict.fromkeys((name for name in record if name.startswith("test_")), "test")
            fields = {"accuracy": "train", **tests, "sparsity": "zeros"}
            numbers = [f"{short} {record[name]:.1%}" for name, short in fields.items() if name in record]
            self._bar.update(self._task, numbers=" ".join([f"loss {record['loss']:.3g}", *numbers]))

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Says in place of the numbers what takes so long, and the seconds, while the block runs."""
        self.doing_since = what, time.monotonic()
        yield
        self.doing_since = "", 0.0


def _said(progress: Progress) -> Any:
    from rich.progress import ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class Said(ProgressColumn):
        """The last numbers, or what is being done and since when."""

        def render(self, task: Any) -> Text:
            (doing, since), now = progress.doing_since, time.monotonic()
            # Short work, as a step is once it is compiled, leaves the numbers where they are.
            return Text(f"{doing} ... {now - since:.0f} s" if doing and now - since > 1 else task.fields["numbers"])

    return Said(table_column=Column(no_wrap=True))


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A line with what a block does and the seconds it has taken, on a terminal; nothing elsewhere."""
    if not watched():
        yield
        return
    from rich.progress import TextColumn, TimeElapsedColumn

    with _bar(TextColumn("{task.description} ..."), TimeElapsedColumn()) as bar:
        task = bar.add_task(what, total=1)
        yield
        bar.advance(task)
