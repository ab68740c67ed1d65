"""Numbers and tables as text."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxcomp.core.errors import MissingExtraError
from jaxcomp.core.tables import is_number


def count(number: int) -> str:
    """A whole number with separators.

    Example:
      >>> count(1234567)
      '1,234,567'
    """
    return f"{number:,}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; empty for None, and never rounded to all or to nothing.

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


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str], *, caption: str) -> Any:
    """The same table for a terminal, as a ``rich.table.Table``.

    Args:
      columns: the headings; the first one's cells fold where the terminal is narrow.
      rows: the cells, as many a row as there are columns.
      total: the cells of the last row.
      caption: a line below the table.

    Raises:
      MissingExtraError: without rich.
    """
    try:
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError('a table for the terminal needs rich: pip install "jaxcomp[report]"') from error
    table = Table(box=SIMPLE, pad_edge=False, show_footer=True, caption=caption, caption_justify="left")
    for i, name in enumerate(columns):
        cells = [row[i] for row in (*rows, total)]
        right = is_number(*cells)
        flush: Literal["right", "left"] = "right" if right else "left"
        table.add_column(name, Text(total[i]), justify=flush, overflow="fold", no_wrap=right)
    for row in rows:
        # Text, not str: a path may hold what rich takes for markup.
        table.add_row(*map(Text, row))
    return table
