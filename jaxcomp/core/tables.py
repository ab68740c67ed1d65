"""Tables of fixed width, as text."""

from collections.abc import Mapping, Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] = ()) -> str:
    """Sets cells in columns: those of digits, percentages and gaps flush right, any other flush left.

    Args:
      columns: the headings.
      rows: the cells, as many a row as there are columns.
      total: the cells of a last row under a rule.

    Returns:
      Lines without trailing blanks, joined by newlines.

    Example:
      >>> print(table(["layer", "MACs"], [["conv", "1,200"], ["head", "7"]], ["total", "1,207"]))
      layer   MACs
      -----  -----
      conv   1,200
      head       7
      -----  -----
      total  1,207
    """
    ends = [total] if total else []
    cells = [[" ".join(cell.split()) if "\n" in cell else cell for cell in row] for row in (columns, *rows, *ends)]
    upright = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in upright]
    right = [is_number(*column[1:]) for column in upright]
    rule = ["-" * width for width in widths]
    lines = [cells[0], rule, *cells[1 : len(rows) + 1], *([rule, cells[-1]] if total else [])]
    return "\n".join(_line(line, widths, right) for line in lines)


def is_number(*cells: str) -> bool:
    """Returns whether all cells are numbers or empty.

    Example:
      >>> is_number("1,200", "<0.1%", ""), is_number("3x3")
      (True, False)
    """
    return all(set(cell) <= set("0123456789,.-+%<> ") for cell in cells)


def dims(shape: Sequence[int]) -> str:
    """Prints a shape as ``3x3x16x32``; ``()`` for a scalar.

    Example:
      >>> dims((3, 3, 16, 32))
      '3x3x16x32'
    """
    return "x".join(map(str, shape)) or "()"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    flush = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
    return "  ".join(flush).rstrip()


def with_left_out(text: str, left_out: Mapping[str, str], label: str = "left out") -> str:
    """Adds to a table a line for each reason why parameters are not in it.

    Args:
      text: the table.
      left_out: ``{path: reason}``.
      label: the word that opens each line.

    Example:
      >>> print(with_left_out("a table", {"bias": "read by add", "scale": "read by mul", "mean": "read by add"}))
      a table
      left out: bias, mean (read by add)
      left out: scale (read by mul)
    """
    paths: dict[str, list[str]] = {}
    for path, why in left_out.items():
        paths.setdefault(why, []).append(path or "the only parameter")
    return "\n".join([text, *(f"{label}: {', '.join(own)} ({why})" for why, own in paths.items())])
