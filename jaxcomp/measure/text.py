"""Numbers and tables as text."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxcomp.core.errors import MissingExtraError
from jaxcomp.core.tables import is_number


def count(number: int) -> str:
    """Prints a whole number with separators.

    Example:
      >>> count(1234567)
      '1,234,567'
    """
    return f"{number:,}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """Prints a fraction as a percentage; empty for None, and never rounded to all or to nothing.

    Args:
      fraction: a fraction of one, or None.
      digits: decimals of the percentage.

    Example:
      >>> percent(0.5), percent(0.999999), percent(1.0), percent(0.0004, 1), percent(None)
      ('50.00%', '>99.99%', '100.00%', '<0.1%', '')
    """
    if fraction is None:
        return ""
    text, least = f"{fraction:.{digits}%}", 10.0**-digits
    if text == f"{1:.{digits}%}" and fraction < 1:
        return f">{100 - least:.{digits}f}%"
    return f"<{least:.{digits}f}%" if text == f"{0:.{digits}%}" and fraction > 0 else text


def fitting(
    console: Any,
    options: Any,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    total: Sequence[str],
    *,
    folded: Sequence[Sequence[int]],
    caption: str,
) -> Any:
    """Lays out a table for a terminal, as a ``rich.table.Table``: each row in one line if that fits, else in several.

    Args:
      console, options: as ``__rich_console__`` is given them.
      columns: the headings.
      rows: the cells, as many a row as there are columns.
      total: the cells of the last row.
      folded: where the terminal is narrow, the columns that stand over each other, by their numbers. Words that are
        too long even so go on in the next line.
      caption: lines below the table.

    Raises:
      MissingExtraError: without rich.
    """
    try:
        from rich.measure import Measurement
    except ImportError as error:
        raise MissingExtraError('a table for the terminal needs rich: pip install "jaxcomp[report]"') from error
    wide = _rich_table(columns, rows, total, [[i] for i in range(len(columns))], caption)
    needed = Measurement.get(console, options.update_width(10_000), wide).minimum
    return wide if needed <= options.max_width else _rich_table(columns, rows, total, folded, caption)


def _rich_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    total: Sequence[str],
    groups: Sequence[Sequence[int]],
    caption: str,
) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    def stack(cells: Sequence[str], group: Sequence[int]) -> Any:
        # Text, not str: a path may hold what rich takes for markup.
        first, *others = (" ".join(cells[i].split()) for i in group)
        return Text.assemble(first, *((f"\n{other}", "dim") for other in others))

    table = Table(box=SIMPLE, pad_edge=False, show_footer=True, caption=Text(caption), caption_justify="left")
    for group in groups:
        right = is_number(*(row[i] for row in (*rows, total) for i in group))
        flush: Literal["right", "left"] = "right" if right else "left"
        table.add_column(stack(columns, group), stack(total, group), justify=flush, overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*(stack(row, group) for group in groups))
    return table
