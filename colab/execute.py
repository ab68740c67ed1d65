"""Executes a notebook in a fresh kernel, and fails where a cell fails: ``python colab/execute.py FILE``."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """Runs every cell in the notebook's folder; the file is left as it is."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": path.parent}})
    client.execute()
    print(f"{path}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    execute(Path(sys.argv[1]))
