"""What a finished run of ``train.compress`` tells: its ``summary.json``, and that in one sentence."""

from pathlib import Path
from typing import Any

from train.common import sealed
from train.common.errors import GO_ON, UserError

NEEDED = ("seed", "teacher_accuracy", "compressed_accuracy", "compressed_bytes", "ratio", "sparsity")


def load(workdir: Path) -> dict[str, Any]:
    """The ``summary.json`` of a finished run.

    Raises:
      UserError: if the run is not finished, or the file is damaged.
    """
    path = workdir / "summary.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no summary.json: give the command that started the run again to finish it")
    summary = sealed.read(path, f"{GO_ON}, and it is written again.")
    if missing := [name for name in NEEDED if name not in summary]:
        raise UserError(f"{path} is not of train.compress: it has no {', '.join(missing)}")
    return summary


def sentence(summary: dict[str, Any], workdir: Path) -> str:
    """What a finished job says where nobody watches."""
    return (
        f"{summary['dataset']}: teacher {summary['teacher_accuracy']:.2%} in {summary['teacher_bytes']:,} bytes of "
        f"float32, compressed {summary['compressed_accuracy']:.2%} in {summary['compressed_bytes']:,} bytes of file "
        f"({summary['ratio']:.1f}x smaller, {summary['sparsity']:.1%} sparse); see {workdir / 'report.html'}"
    )
