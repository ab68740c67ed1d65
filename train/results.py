"""A table of finished runs, with mean and spread: ``python -m train.results runs/digits-*``. Prints Markdown."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.common import options, outcome
from train.common.errors import exit_status

COLUMNS = ("seed", "teacher, %", "compressed, %", "drop, points", "bytes", "ratio", "sparsity, %")


def table(runs: Sequence[dict[str, Any]]) -> str:
    """One row a run, then mean and sample deviation.

    Args:
      runs: summaries of runs that differ in their seed alone.

    Returns:
      A Markdown table.

    Example:
      >>> run = {"seed": 0, "teacher_accuracy": 0.98, "compressed_accuracy": 0.97, "compressed_bytes": 10_000}
      >>> print(table([run | {"ratio": 40.0, "sparsity": 0.9}]).splitlines()[2])
      | 0 | 98.00 | 97.00 | 1.00 | 10,000 | 40.0x | 90.0 |
    """
    rows = [[_numbers(run)[name] for name in COLUMNS[1:]] for run in runs]
    lines = [_line([str(run["seed"]), *map(_write, COLUMNS[1:], row)]) for run, row in zip(runs, rows, strict=True)]
    head = [_line(COLUMNS), _line(["---", *["---:"] * (len(COLUMNS) - 1)])]
    if len(runs) < 2:
        return "\n".join([*head, *lines])
    columns = list(zip(*rows, strict=True))
    mean = _line(["mean", *map(_write, COLUMNS[1:], map(statistics.mean, columns))])
    spread = _line(["deviation", *map(_write, COLUMNS[1:], map(statistics.stdev, columns))])
    return "\n".join([*head, *lines, mean, spread])


def _numbers(run: dict[str, Any]) -> dict[str, float]:
    teacher, compressed = (100 * figure for figure in outcome.figures(run))
    size, ratio, sparsity = run["compressed_bytes"], run["ratio"], 100 * run["sparsity"]
    return dict(zip(COLUMNS[1:], (teacher, compressed, teacher - compressed, size, ratio, sparsity), strict=True))


def _write(column: str, value: float) -> str:
    formats = {"bytes": f"{value:,.0f}", "ratio": f"{value:.1f}x", "sparsity, %": f"{value:.1f}"}
    return formats.get(column, f"{value:.2f}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Prints the table of the run folders that the command line names."""
    parser = options.parser(__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, help="folders of finished runs")
    workdirs = parser.parse_args().workdirs
    return exit_status(lambda: print(table([outcome.load(workdir) for workdir in workdirs])))


if __name__ == "__main__":
    sys.exit(main())
