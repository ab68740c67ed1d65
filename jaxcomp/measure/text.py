"""Numbers and tables as text."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxcomp.core.errors import MissingExtraError


def count(number: int) -> str:
    """A whole number with separators: ``1,234,567``."""
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


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str]) -> str:
    """A table of fixed width, with a last row under a rule.

    A column of digits, percentages and gaps is set flush right, any other flush left.

    Args:
      columns: the headings.
      rows: the cells, as many a row as there are columns.
      total: the cells of the last row.

    Returns:
      Lines without trailing blanks, joined by newlines.

    Example:
      >>> print(text_table(["layer", "zeros"], [["conv", "1,200"], ["head", "7"]], ["total", "1,207"]))
      layer  zeros
      -----  -----
      conv   1,200
      head       7
      -----  -----
      total  1,207
    """
    cells = [[_one_line(cell) for cell in row] for row in (columns, *rows, total)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(_is_number(cell) for cell in column[1:]) for column in zip(*cells, strict=True)]
    rule = ["-" * width for width in widths]
    cells = [cells[0], rule, *cells[1:-1], rule, cells[-1]]
    return "\n".join(_line(row, widths, right) for row in cells)


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
        right = all(map(_is_number, cells))
        flush: Literal["right", "left"] = "right" if right else "left"
        table.add_column(name, Text(total[i]), justify=flush, overflow="fold", no_wrap=right)
    for row in rows:
        # Text, not str: a path may hold what rich takes for markup.
        table.add_row(*map(Text, row))
    return table


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    set_ = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
    return "  ".join(set_).rstrip()


def _one_line(cell: str) -> str:
    return " ".join(cell.split()) if "\n" in cell else cell


def _is_number(cell: str) -> bool:
    return cell == "" or set(cell) <= set("0123456789,.-+%<> ")
