"""Every Python block of the documentation runs, and prints what its page shows; every call that a page names exists."""

import re
from pathlib import Path
from typing import Any

import pytest

import jaxcomp as jc
from tests.pages import ROOT, VARY, blocks, run

PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "build" not in path.parts)
QUICK = {"index.md", "quickstart.md", "guides/export.md", "coming-from/qwix.md"}  # others take long to compile
NAMES = [pytest.param(page, id=str(page.relative_to(ROOT / "docs"))) for page in PAGES]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(*each.values, id=each.id, marks=[pytest.mark.exhaustive] if each.id not in QUICK else [])
        for each in NAMES
        if blocks(each.values[0].read_text())
    ],
)
def test_its_blocks_run(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, {"__name__": page.stem})


@pytest.mark.parametrize("page", [*NAMES, pytest.param(ROOT / "README.md", id="README")])
def test_every_call_that_it_names_exists(page: Path) -> None:
    for call in set(re.findall(r"\bjc((?:\.[A-Za-z_0-9]+)+)", page.read_text())):
        found: Any = jc
        for name in call[1:].split("."):
            assert hasattr(found, name), f"{page.name} names jc{call}"
            found = getattr(found, name)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_its_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / target).exists(), f"{page} links to {target}"


def test_a_page_is_read_as_it_is_shown() -> None:
    text = "words\n```python\na = 1\nprint(a)\n```\n\n```text\n1\n```\n```python\nb = a\n```\nwords\n```text\n2\n```\n"
    first, second = blocks(text)
    assert (first.line, first.output) == (2, "1\n")
    assert (second.code, second.output) == ("b = a\n", None)
    varying = blocks(text.replace("```\n\n```text", f"```\n{VARY}\n```text"))[0]
    assert [each.check(shown) for each in (first, varying) for shown in ("1", "23", "a")] == [1, 0, 0, 1, 1, 0]


def test_what_a_page_shows_must_be_printed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    (page := tmp_path / "page.md").write_text("```python\nprint(1)\n```\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1 shows"):
        run(page, {})
    page.write_text("\n```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        run(page, {})
    assert raised.traceback[-1].lineno == 2
