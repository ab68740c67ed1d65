"""A table of points in a run folder, each measured once: what a run that is given again goes on with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.common import mirror, sealed
from train.common.errors import GO_ON

REMADE = f"{GO_ON}, and it is made again."


class Table:
    """The rows of ``summary.json``, written as soon as they are known, and printed, a line each.

    Attributes:
      path: the file.
      summary: all that it holds; rows under the name that was given.
      rows: in the order in which they were measured.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> table = Table(folder, lambda row: f"{row['bits']} bits: {row['accuracy']:.0%}")
      >>> row = table.row(lambda: {"accuracy": 0.5}, bits=4)
      4 bits: 50%
      >>> again = Table(folder, str)  # of a later run
      >>> again.known(bits=4)["accuracy"]
      0.5
    """

    def __init__(self, workdir: Path, line: Callable[[Mapping[str, Any]], str], *, name: str = "rows") -> None:
        """Goes on where the file ends.

        Args:
          workdir: the run folder, claimed.
          line: how a row is printed.
          name: what the rows are called in the file.

        Raises:
          UserError: if the file is damaged.
        """
        self.path, self._line = workdir / "summary.json", line
        self.summary: dict[str, Any] = sealed.read(self.path, REMADE) if self.path.exists() else {}
        self.rows: list[dict[str, Any]] = self.summary.setdefault(name, [])

    def known(self, **key: Any) -> dict[str, Any] | None:
        """The row of a key, if it has been measured."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def row(self, measure: Callable[[], Mapping[str, Any]], **key: Any) -> dict[str, Any]:
        """The row of a key: as an earlier run has written it, or measured now; printed in either case."""
        row = self.known(**key)
        if row is None:
            row = key | dict(measure())
            self.rows.append(row)
            self.write()
        print(self._line(row), flush=True)
        return row

    def fact(self, name: str, measure: Callable[[], Any]) -> Any:
        """A number beside the rows, likewise measured once; it is written with the next row."""
        if name not in self.summary:
            self.summary[name] = measure()
        return self.summary[name]

    def write(self, **more: Any) -> dict[str, Any]:
        """Writes the file, with further fields, also into the bucket; gives all that it holds."""
        self.summary |= more
        sealed.write(self.path, self.summary)
        mirror.push(self.path.parent)
        return self.summary
