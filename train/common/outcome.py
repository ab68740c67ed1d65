"""The outcome of a run of ``train.compress``: its ``summary.json``, and that in one sentence."""

from pathlib import Path
from typing import Any

from train.common import mirror, sealed
from train.common.errors import GO_ON, UserError

NEEDED = ("metric", "seed", "compressed_bytes", "ratio", "sparsity")


def figures(summary: dict[str, Any]) -> tuple[float, float]:
    """The teacher's figure and the compressed network's; accuracy where no other is named.

    Example:
      >>> figures({"metric": "map50", "teacher_map50": 0.9, "compressed_map50": 0.89})
      (0.9, 0.89)
    """
    metric = summary.get("metric", "accuracy")
    return summary[f"teacher_{metric}"], summary[f"compressed_{metric}"]


def load(workdir: Path) -> dict[str, Any]:
    """The ``summary.json`` of a finished run.

    Raises:
      UserError: if the run is not finished, or the file is damaged.
    """
    path = workdir / "summary.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no summary.json: give the command that started the run again to finish it")
    summary = sealed.read(path, f"{GO_ON}, and it is written again.")
    summary = {"metric": "accuracy", **summary}  # older ones are all of classifiers
    needed = [*NEEDED, *(f"{whose}_{summary['metric']}" for whose in ("teacher", "compressed"))]
    if missing := [name for name in needed if name not in summary]:
        raise UserError(f"{path} is not of train.compress: it has no {', '.join(missing)}")
    return summary


def sentence(summary: dict[str, Any], workdir: Path) -> str:
    """Prints the outcome of a finished job where nobody watches."""
    page = mirror.shown(str(workdir / "report.html"))
    (teacher, compressed), task = figures(summary), summary.get("task", "classification")
    what = summary["dataset"] if task == "classification" else f"{summary['dataset']}, {task}"
    return (
        f"{what}: teacher {teacher:.2%} in {summary['teacher_bytes']:,} bytes of "
        f"float32, compressed {compressed:.2%} in {summary['compressed_bytes']:,} bytes of file "
        f"({summary['ratio']:.1f}x smaller, {summary['sparsity']:.1%} sparse); see {page}"
    )
