"""Executes a notebook from top to bottom in a fresh kernel; fails where a cell fails. ``python colab/execute.py FILE``."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """Runs every cell in the notebook's folder; the file is left as it is."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
