"""The Python blocks of a Markdown page, run in order in one namespace, and the output that the page shows of them."""

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
VARY = "<!-- numbers vary -->"
"""Before an output whose numbers follow from training, which rounds otherwise elsewhere: they are not compared."""


class Block(NamedTuple):
    """A ``python`` block of a page.

    Attributes:
      line: the number of lines before its first one.
      code: what it holds.
      output: what the ``text`` block right after it holds, which is what it must print; None: there is none.
      vary: whether the numbers in it may be others.
    """

    line: int
    code: str
    output: str | None = None
    vary: bool = False

    def check(self, printed: str) -> bool:
        """Whether what was printed is what the page shows."""
        if self.output is None:
            return True
        shown, printed = (re.sub(r"[\d.,%]+|-+", "0", text) if self.vary else text for text in (self.output, printed))
        return doctest.OutputChecker().check_output(shown, printed, OPTIONS)


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page, in order."""
    found: list[Block] = []
    end = None
    for fence in FENCE.finditer(text):
        kind, content = fence.groups()
        if kind == "python":
            found.append(Block(text.count("\n", 0, fence.start(2)), content))
            end = fence.end()
        elif end is not None and (between := text[end : fence.start()].strip()) in ("", VARY):
            found[-1] = found[-1]._replace(output=content, vary=between == VARY)
            end = None
    return found


def run(page: Path, names: dict[str, Any]) -> None:
    """Runs a page's blocks; tracebacks show its own lines.

    Raises:
      AssertionError: if a block prints something else than the page shows.
    """
    for block in blocks(page.read_text()):
        code = compile("\n" * block.line + block.code, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        if not block.check(printed.getvalue()):
            place = f"{page.relative_to(ROOT)}:{block.line}"
            raise AssertionError(f"{place} shows\n{block.output}\nand printed\n{printed.getvalue()}")
