"""Executes notebooks, each in a fresh kernel: ``python colab/execute.py FILE...``; ``--save`` keeps what they show.

Fails where a cell fails, and where a cell prints something else than the file shows, numbers aside. ``--save`` also
writes the badge and the cell that installs, which are the same in every notebook but for its name.
"""

import argparse
import base64
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

INSTALL = f"""
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("jaxcomp") is None:  # on Colab, for one
    clone = Path.cwd().parent
    source = clone.as_uri() if (clone / "jaxcomp").is_dir() else "git+{REPOSITORY}"
    plugins = {{"libtpu": "jax[tpu]", "jax_cuda12_plugin": "jax[cuda12]"}}  # their versions follow JAX's
    needed = [f"jaxcomp[train] @ {{source}}", *(plugins[name] for name in plugins if importlib.util.find_spec(name))]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *needed], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip ended with status {{done.returncode}}:\\n{{done.stderr}}")
    importlib.invalidate_caches()
""".strip()
"""The cell that installs: from the clone that the notebook is in, or from the repository."""


def address(name: str) -> str:
    """The address at which Colab opens a notebook of the repository."""
    return f"{REPOSITORY.replace('github.com', 'colab.research.google.com/github')}/blob/main/colab/{name}.ipynb"


def badge(name: str) -> str:
    """The link, in Markdown, that opens a notebook in Colab."""
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address(name)})"


def printed(cell: Any) -> str:
    """What a cell shows as text."""
    return "".join(each.get("text", "") for each in cell.get("outputs", []))


def pictures(cell: Any) -> list[bytes]:
    """The PNG images that a cell shows."""
    found = (each.get("data", {}).get("image/png") for each in cell.get("outputs", []))
    return [base64.b64decode(image) for image in found if image]


def execute(path: Path, save: bool) -> None:
    """Runs every cell in the notebook's folder.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
      ValueError: if a cell shows something else than the file does, and it is not to be saved.
    """
    notebook = nbformat.read(path, as_version=4)
    if save:
        for cell, source in zip(notebook.cells, (badge(path.stem), None, INSTALL), strict=False):
            cell.source = source or cell.source
    shown = [(printed(cell), len(pictures(cell))) for cell in notebook.cells]
    os.environ.pop("MPLBACKEND", None)  # with one that is set no picture is shown in the notebook
    folder = {"metadata": {"path": path.parent}}
    client = NotebookClient(notebook, timeout=900, record_timing=False, coalesce_streams=True, resources=folder)
    client.execute()
    for cell in notebook.cells:  # a line of progress that was wiped leaves spaces
        if "outputs" in cell:
            cell.outputs = [each for each in cell.outputs if each.get("text", "written").strip()]
    for number, (cell, (text, images)) in enumerate(zip(notebook.cells, shown, strict=True)):
        if not save and (_words(printed(cell)), len(pictures(cell))) != (_words(text), images):
            raise ValueError(
                f"{path}, cell {number}: the file shows\n{text}\nand {images} pictures, and the cell now shows\n"
                f"{printed(cell)}\nand {len(pictures(cell))}: run colab/execute.py --save {path}"
            )
    if save:
        notebook.metadata.language_info = {"name": "python"}
        nbformat.write(notebook, path)
    print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


def _words(text: str) -> list[str]:
    """A text's words; numbers, which round otherwise elsewhere, are all alike."""
    return re.sub(r"[\d.,%]+|-+", "0", text).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--save", action="store_true", help="write what the cells show into the files")
    args = parser.parse_args()
    for path in args.files:
        execute(path.resolve(), args.save)


if __name__ == "__main__":
    main()
