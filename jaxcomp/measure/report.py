"""One HTML file that holds a whole report: no script, no external resource, nothing to install to read it."""

import os
from collections.abc import Iterable
from html import escape

from jaxcomp.core.files import write_atomically
from jaxcomp.measure.blocks import Block, markups

# The policy makes the browser itself hold the page to loading nothing.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root { --ink: #1c2330; --soft: #5b6576; --line: #dfe3ea; --page: #f5f6f9; --card: #ffffff;
  --bar: #3b76c4; --track: #e4e8ef; --tick: #d1495b; --gray: #b9c1ce; --blue: #0072b2; --sky: #56b4e9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf1; --soft: #9aa5b8; --line: #323a49; --page: #14181f; --card: #1d232d;
    --bar: #6aa5f0; --track: #333c4b; --tick: #ff8a9a; --gray: #596376; --blue: #4aa8e0; --sky: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 16px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; overflow-wrap: anywhere; }
p { max-width: 75ch; margin: 8px 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px;
  margin: 20px 0; }
.tile, .scroll, details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 16px 18px; overflow-wrap: anywhere; }
.label, .detail { color: var(--soft); font-size: 13px; }
.value { font-size: 32px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
figure { margin: 14px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px; text-align: center; }
figure svg { max-width: 100%; height: auto; display: block; margin: 0 auto; font-family: "DejaVu Sans",
  Verdana, system-ui, Arial, sans-serif; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 8px; }
.narrow { display: none; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td:last-child { min-width: 140px; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: color-mix(in srgb, var(--bar) 8%, transparent); }
tfoot td { font-weight: 650; border-top: 2px solid var(--line); border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
td.bar { white-space: nowrap; }
.track { position: relative; display: inline-block; width: 76px; height: 10px; border-radius: 3px;
  background: var(--track); vertical-align: middle; }
.track b { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 3px; background: var(--bar); }
.track i { position: absolute; top: -3px; bottom: -3px; width: 2px; margin-left: -1px;
  background: var(--tick); }
.share { display: inline-block; min-width: 54px; text-align: right; }
details { margin: 14px 0; padding: 10px 16px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
@media (max-width: 700px) {
  main { padding: 20px 10px 40px; }
  figure { padding: 8px 4px; }
  .wide { display: none; }
  .narrow { display: block; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 8px; }
  .value { font-size: 24px; } }
@media print { body { background: none; } figure, tr { break-inside: avoid; } }
"""


def html_report(path: str | os.PathLike[str], title: str, blocks: Iterable[Block | str]) -> None:
    """Writes a page of blocks as one HTML file, light or dark as the reader's system is.

    The file appears whole or not at all.

    Args:
      path: the file to write, or to replace; its folder exists.
      title: the heading of the page.
      blocks: below it, in order: the results of :func:`tiles`, :func:`heading`,
        :func:`table`, :func:`figure`, ...; a bare string is a paragraph.

    Raises:
      ArgumentError: if there is no folder to hold it.
      OSError: if the file cannot be written; an earlier one is then left as it was.

    Example:
      >>> import pathlib, tempfile
      >>> from jaxcomp.measure import heading, tiles
      >>> page = pathlib.Path(tempfile.mkdtemp()) / "report.html"
      >>> html_report(page, "LeNet", [tiles([("size", "41 kB")]), heading("Layers"), "All of them."])
      >>> page.read_text().count("41 kB")
      1
    """
    page = PAGE.format(title=escape(title), style=STYLE, body="\n".join(markups(blocks)))
    write_atomically(path, page.encode())
