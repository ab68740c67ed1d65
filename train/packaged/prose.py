"""Sentences to be rendered and spoken: those of this project's own pages."""

import re
from pathlib import Path

from train.common import sealed

DOCS = Path(__file__).parents[2] / "docs"
PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,'()-]{20,200}[.:]")


def sentences(*, held_out: bool) -> list[str]:
    """Plain sentences, of every other page: those of the others are held out.

    Example:
      >>> known, others = sentences(held_out=False), sentences(held_out=True)
      >>> len(known) > 40 and len(others) > 40 and not {*known} & {*others}
      True
    """
    pages = [path for path in sorted(DOCS.rglob("*.md")) if "api" not in path.parts]
    found = [_of(page.read_text()) for page in pages]
    texts = [{line: None for page in found[start::2] for line in page} for start in (0, 1)]
    return [line for line in texts[held_out] if held_out or line not in texts[1]]


def digest() -> str:
    """By which rows that were measured on these sentences are told from those on others: pages are edited."""
    return sealed.digest([sentences(held_out=held_out) for held_out in (False, True)])[:12]


def _of(page: str) -> list[str]:
    whole = re.sub(r"```.*?```|<!--.*?-->|^[|#].*?$", "\n\n", page, flags=re.DOTALL | re.MULTILINE)
    paragraphs = (" ".join(part.split()) for part in whole.split("\n\n"))
    return [line for part in paragraphs for line in re.split(r"(?<=[.:]) ", part) if PLAIN.fullmatch(line)]
