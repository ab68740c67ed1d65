"""The blocks of a report: text, tiles, tables and figures as escaped HTML."""

import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from jaxcomp.core.errors import ArgumentError
from jaxcomp.measure import canvas
from jaxcomp.measure.summary import Row, Summary
from jaxcomp.measure.text import count, percent


class Block(NamedTuple):
    """A piece of a page.

    Attributes:
      markup: HTML, in which every text of a caller has been escaped.
    """

    markup: str


class Bar(NamedTuple):
    """A table cell that shows a fraction as a bar.

    Attributes:
      reached: the length of the bar, in [0, 1]; also written out.
      asked: where a tick is set, in [0, 1], also written out; None for neither.
    """

    reached: float
    asked: float | None = None


class Titled(NamedTuple):
    """A table cell whose whole text is shown when it is pointed at: a checksum, by its first digits.

    Attributes:
      shown: the text in the cell.
      title: the whole.
    """

    shown: str
    title: str


def heading(text: str) -> Block:
    """Makes a heading below that of the page.

    Args:
      text: plain text, which is escaped.

    Example:
      >>> heading("ResNet & friends").markup
      '<h2>ResNet &amp; friends</h2>'
    """
    return Block(f"<h2>{escape(text)}</h2>")


def paragraph(text: str) -> Block:
    """Makes a paragraph; a bare string among the blocks of a page is one too.

    Args:
      text: plain text, which is escaped.

    Example:
      >>> paragraph("pruned & fine-tuned").markup
      '<p>pruned &amp; fine-tuned</p>'
    """
    return Block(f"<p>{escape(text)}</p>")


def code(text: str) -> Block:
    """Sets text in fixed width, with its line breaks: a configuration, a command.

    Args:
      text: plain text, which is escaped.

    Example:
      >>> code("steps < 100").markup
      '<pre>steps &lt; 100</pre>'
    """
    return Block(f"<pre>{escape(text)}</pre>")


def collapsible(title: str, *blocks: Block | str) -> Block:
    """Hides blocks until the reader opens them.

    Args:
      title: that is always shown.
      *blocks: of this module; a bare string becomes a paragraph.

    Example:
      >>> collapsible("Details", "none").markup.splitlines()[1]
      '<p>none</p>'
    """
    inner = "\n".join(markups(blocks))
    return Block(f"<details><summary>{escape(title)}</summary>\n{inner}\n</details>")


def tiles(items: Iterable[Sequence[str]]) -> Block:
    """Shows the key numbers of a page as large tiles.

    Args:
      items: a label and a value each, and, where there is more to say, a line of detail.

    Raises:
      ArgumentError: if an item is not of two or three texts.

    Example:
      >>> tiles([("sparsity", "90 %", "of 92 % asked")]).markup.count("90 %")
      1
    """
    return Block('<div class="tiles">' + "".join(_tile(item) for item in items) + "</div>")


def _tile(item: Sequence[str]) -> str:
    if isinstance(item, str) or len(item) not in (2, 3):
        raise ArgumentError(f"a tile is (label, value) or (label, value, detail), not {item!r}")
    label, value, *detail = (escape(str(text)) for text in item)
    more = "".join(f'<div class="detail">{text}</div>' for text in detail)
    return f'<div class="tile"><div class="label">{label}</div><div class="value">{value}</div>{more}</div>'


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    total: Mapping[str, Any] | None = None,
) -> Block:
    """Makes a table; numbers are set flush right, a :class:`Bar` is drawn, a :class:`Titled` is shown short.

    None and missing cells stay empty.

    Args:
      rows: the cells by column.
      columns: the columns in order; None for those of the rows, as they first appear.
      total: a last row, set apart.

    Example:
      >>> table([{"layer": "conv", "weights": 1200}]).markup.count("1,200")
      1
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in names if any(isinstance(row.get(name), int | float) for row in rows)}
    head = "".join(f"<th{_align(name in numeric)}>{escape(name)}</th>" for name in names)
    body = "\n".join(_table_row(row, names) for row in rows)
    foot = f"<tfoot>{_table_row(total, names)}</tfoot>" if total is not None else ""
    grid = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>{foot}</table>"
    return Block(f'<div class="scroll">{grid}</div>')


def _table_row(row: Mapping[str, Any], names: Iterable[str]) -> str:
    return "<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>"


def _cell(value: Any) -> str:
    match value:
        case None:
            return "<td></td>"
        case Bar():
            return f'<td class="bar">{_bar(value)}</td>'
        case Titled():
            return f'<td title="{escape(value.title)}">{escape(value.shown)}</td>'
        case bool():
            return f"<td>{'yes' if value else 'no'}</td>"
        case int():
            return f"<td{_align(True)}>{count(value)}</td>"
        case float():
            return f"<td{_align(True)}>{value:.4g}</td>"
    return f"<td>{escape(str(value))}</td>"


def _align(number: bool) -> str:
    return ' class="number"' if number else ""


def _bar(bar: Bar) -> str:
    tick = asked = ""
    if bar.asked is not None:
        tick = f'<i style="left:{_clip(bar.asked)}"></i>'
        asked = f'<span class="label"> of {escape(percent(bar.asked, 1))}</span>'
    fill = f'<b style="width:{_clip(bar.reached)}"></b>'
    share = f'<span class="share">{escape(percent(bar.reached, 1))}</span>'
    return f'<span class="track">{fill}{tick}</span>{share}{asked}'


def _clip(fraction: float) -> str:
    # NaN fails both comparisons and so becomes an empty bar.
    inside = fraction if 0 <= fraction <= 1 else float(fraction > 1)
    return f"{100 * inside:.2f}%"


def summary_table(summary: Summary) -> Block:
    """Makes a table of a summary; sparsity is a bar with a tick where the one asked for lies.

    Args:
      summary: of :func:`jaxcomp.measure.summary`.

    Example:
      >>> import numpy as np, jaxcomp as jc
      >>> summary_table(jc.measure.summary({"w": np.array([0.0, 1.0])})).markup.count("<tr>")  # head, row, total
      3
    """
    form = summary.form
    return table([_summary_row(row, form) for row in summary.rows], total=_summary_row(summary.total, form))


def _summary_row(row: Row, form: str) -> dict[str, Any]:
    return {
        "path": row.path,
        "shape": "×".join(map(str, row.shape)),
        "parameters": row.parameters,
        "sparsity (of asked)": Bar(row.sparsity, row.asked),
        "bits": row.bits,
        f"bytes, {form}": row.dense_bytes,
        "codes and positions": row.coded_bytes,
        "note": row.note,
    }


def figure(drawing: Any, *, narrow: Any = None, caption: str = "") -> Block:
    """Embeds a drawing as inline SVG, with its text as text, in the colors of the page, light or dark.

    Args:
      drawing: a ``matplotlib.figure.Figure``.
      narrow: the same one laid out for a phone (``width=jaxcomp.measure.PHONE``), shown there in its place.
      caption: a line below it, which also names it to a screen reader.

    Returns:
      A block whose ids are its own, so that one page can hold many drawings.
    """
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    drawn = _inline(drawing)
    if narrow is not None:
        drawn = f'<div class="wide">{drawn}</div><div class="narrow">{_inline(narrow)}</div>'
    return Block(f'<figure role="img" aria-label="{escape(caption)}">{drawn}{said}</figure>')


# As they are in report.STYLE, where a dark page has others.
_COLOURS = {
    canvas.INK: "--ink", canvas.SOFT: "--soft", canvas.FAINT: "--line", canvas.GRAY: "--gray", "#000000": "--ink",
    canvas.BLUE: "--blue", canvas.SKY: "--sky",
}  # fmt: skip


def _inline(drawing: Any) -> str:
    import matplotlib  # present, as the drawing is one of its figures

    buffer = io.StringIO()
    unsigned = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxcomp"}):
        drawing.savefig(buffer, format="svg", metadata=unsigned, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    mark = f"f{zlib.crc32(svg.encode()):08x}-"

    def tag(match: re.Match[str]) -> str:
        # Only within tags: a label may well read 'id="x"'. The page sets the font.
        text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", match[0])
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        for color, name in _COLOURS.items():
            text = text.replace(f": {color.lower()}", f": var({name})")
        return re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{mark}", text)

    return re.sub(r"<[^>]+>", tag, svg)


def markups(blocks: Iterable[Block | str]) -> list[str]:
    """Returns the HTML of each block; a bare string becomes a paragraph.

    Args:
      blocks: of this module, and strings of plain text.

    Example:
      >>> markups(["1 < 2"])
      ['<p>1 &lt; 2</p>']
    """
    return [(paragraph(block) if isinstance(block, str) else block).markup for block in blocks]
