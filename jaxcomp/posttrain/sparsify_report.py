"""The report of sparsify: what was asked of each layer, what it reached, what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxcomp.core.tables import table, with_left_out


class SparseRow(NamedTuple):
    """The treatment of one weight.

    Attributes:
      path: the parameter.
      size: its entries.
      asked: the fraction of zeros that it was to have; None if it was left out.
      reached: the fraction that it has.
      error: the squared error of its sites' outputs over the squares of the outputs before, on examples that were held
        out; None without data.
      skipped: why it was left as it was.
      back: the method by which it was pruned after all, as the one asked for was no better on what was held out, or of
        ``auto`` OBC too slow.
    """

    path: str
    size: int
    asked: float | None
    reached: float
    error: float | None = None
    skipped: str = ""
    back: str = ""


ERROR = "error: squared error of the layer's outputs, over their squares"
BACK = "pruned by: the method taken where the one asked for was no better, or would have taken too long"


@dataclass(frozen=True)
class SparseReport:
    """The treatment of every weight that a matmul or convolution reads, in order of the leaves; prints as a table.

    Attributes:
      rows: one a weight.
      left_out: ``{path: what reads it}`` of all other parameters, which stay dense.
      judged: on which examples errors were measured.
      decided: why all layers have the plain method's weights, whatever was found layer by layer; empty where each layer
        was decided by its own errors.
    """

    rows: tuple[SparseRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    judged: str = ""
    decided: str = ""

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in all weights that were pruned."""
        pruned = [row for row in self.rows if row.asked is not None]
        return sum(row.reached * row.size for row in pruned) / max(sum(row.size for row in pruned), 1)

    def __str__(self) -> str:
        there = [row for row in self.rows if not row.skipped]
        back = any(row.back for row in there)
        columns = ["parameter", "size", "asked", "reached", "error", *["pruned by"] * back]
        rows = [
            [
                row.path,
                f"{row.size:,}",
                "" if row.asked is None else f"{row.asked:.2%}",
                f"{row.reached:.2%}",
                "" if row.error is None else f"{row.error:.4f}",
                *[row.back] * back,
            ]
            for row in there
        ]
        pruned = sum(row.size for row in self.rows if row.asked is not None)
        total = ["total", f"{pruned:,}", "", f"{self.sparsity:.2%}", "", *[""] * back]
        known = any(row.error is not None for row in there)
        lines = [table(columns, rows, total), ERROR * known, self.judged, BACK * back, self.decided]
        text = "\n".join(filter(None, lines))
        text = with_left_out(text, {row.path: row.skipped for row in self.rows if row.skipped}, "not pruned")
        return with_left_out(text, self.left_out)
