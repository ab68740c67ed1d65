"""Notebooks open in Colab, install from a clone or from the repository, and show what they showed when they ran."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from colab import execute
from tests.pages import ROOT

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])
LARGEST = 60_000
"""Bytes of a picture."""


def _cells(path: Path) -> list[Any]:
    return nbformat.read(path, as_version=4).cells


@EACH
def test_it_opens_with_its_badge_and_with_what_installs(path: Path) -> None:
    badge, title, install = (cell.source for cell in _cells(path)[:3])
    assert (badge, install) == (execute.badge(path.stem), execute.INSTALL), f"run colab/execute.py --save {path}"
    assert title.startswith("# ")


@pytest.mark.parametrize(
    ("page", "linked"), [("README.md", {"quickstart"}), ("docs/index.md", {path.stem for path in NOTEBOOKS})]
)
def test_its_links_are_to_the_repository(page: str, linked: set[str]) -> None:
    text = re.sub(r"\(colab:(\w+)\)", lambda link: f"({execute.address(link[1])})", (ROOT / page).read_text())
    links = re.findall(r"https://(?:colab\.research\.google\.com/)?github(?:\.com)?/[^)\s>]+", text)
    assert {link for link in links if link.endswith(".ipynb")} == set(map(execute.address, linked))
    assert all(link.startswith(("https://colab.", execute.REPOSITORY)) for link in links)


@EACH
def test_it_is_saved_as_it_ran_from_top_to_bottom(path: Path) -> None:
    cells = [cell for cell in _cells(path) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {each.output_type for cell in cells for each in cell.outputs} <= {"stream", "display_data"}
    images = [image for cell in cells for image in execute.pictures(cell)]
    assert 1 <= len(images) <= 2
    assert all(image.startswith(b"\x89PNG") and len(image) < LARGEST for image in images)
    silent = [cell.source for cell in cells if "print(" in cell.source and not execute.printed(cell).strip()]
    assert silent == []
    assert not re.search(r"/(tmp|home|work|root|Users)/", "".join(map(execute.printed, cells))), "a path of a machine"


@pytest.mark.parametrize("clone", [False, True])
@pytest.mark.parametrize("status", [0, 1])
def test_what_installs_raises_where_pip_fails(clone: bool, status: int, tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[list[str]] = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, status, "", "no such package")

    for folder in ("colab", *(["jaxcomp"] if clone else [])):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "colab")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", pip)
    if status:
        with pytest.raises(RuntimeError, match="status 1:\nno such package"):
            exec(execute.INSTALL, {})
    else:
        exec(execute.INSTALL, {})
    source = tmp_path.as_uri() if clone else f"git+{execute.REPOSITORY}"
    assert ran == [[sys.executable, "-m", "pip", "install", "-q", f"jaxcomp[train] @ {source}"]]


def test_the_linter_and_the_formatter_read_every_notebook() -> None:
    ruff = [sys.executable, "-m", "ruff"]
    listed = subprocess.run([*ruff, "check", "--show-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {str(path) for path in NOTEBOOKS} <= set(listed.stdout.splitlines())
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, *map(str, NOTEBOOKS)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("shows", "same"), [("kept 7 of 12\n", True), ("cut 7 of 12\n", False), ("", False)])
def test_what_it_shows_must_be_what_the_file_shows_but_for_numbers(
    shows: str, same: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    cell = nbformat.v4.new_code_cell("...", outputs=[nbformat.v4.new_output("stream", text="kept 0.73 of 9\n")])
    path = tmp_path / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)

    class Client:
        def __init__(self, notebook: Any, **_: Any) -> None:
            self.cell = notebook.cells[0]

        def execute(self) -> None:
            self.cell.outputs[0].text = shows

    monkeypatch.setattr(execute, "NotebookClient", Client)
    if same:
        execute.execute(path, save=False)
    else:
        with pytest.raises(ValueError, match=r"the file shows\nkept 0\.73 of 9"):
            execute.execute(path, save=False)
