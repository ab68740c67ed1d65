"""Tables of fixed width."""

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int, total: Sequence[str] = ()) -> str:
    """Sets cells in columns, the first ``left`` flush left and the others flush right.

    Args:
      columns: the headings.
      rows: the cells, as many a row as there are columns.
      left: how many columns are words rather than numbers.
      total: the cells of a last row under a rule.

    Returns:
      Lines without trailing blanks, joined by newlines.

    Example:
      >>> print(table(["layer", "MACs"], [["conv", "1,200"], ["head", "7"]], 1, ["total", "1,207"]))
      layer   MACs
      -----  -----
      conv   1,200
      head       7
      -----  -----
      total  1,207
    """
    ends = [total] if total else []
    widths = [max(map(len, column)) for column in zip(columns, *rows, *ends, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [columns, rule, *rows, *([rule, total] if total else [])]
    flush = [str.ljust] * left + [str.rjust] * (len(columns) - left)
    cells = [[set_(c, w) for set_, c, w in zip(flush, line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)


def dims(shape: Sequence[int]) -> str:
    """A shape as ``3x3x16x32``; ``()`` for a scalar.

    Example:
      >>> dims((3, 3, 16, 32))
      '3x3x16x32'
    """
    return "x".join(map(str, shape)) or "()"
