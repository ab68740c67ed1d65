"""The report of folding, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxcomp.core.tables import table, with_left_out


class FoldRow(NamedTuple):
    """The treatment of one kernel.

    Attributes:
      path: the kernel.
      bias: where its new bias is; empty if it has none.
      taken: the parameters that are gone into it.
      skipped: why it took in nothing.
    """

    path: str
    bias: str = ""
    taken: tuple[str, ...] = ()
    skipped: str = ""


LEGEND = "bias: the parameter that holds the shift; taken in: parameters that were folded into kernel and bias"


@dataclass(frozen=True)
class FoldReport:
    """The treatment of every kernel that a matmul or convolution reads; prints as a table.

    Attributes:
      rows: one a kernel.
      left_out: ``{path: what reads it}`` of all parameters that are neither kernels nor part of one now.
    """

    rows: tuple[FoldRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was folded."""
        return all(row.skipped for row in self.rows)

    def __str__(self) -> str:
        rows = [[row.path, row.bias, ", ".join(row.taken)] for row in self.rows if not row.skipped]
        text = f"{table(['kernel', 'bias', 'taken in'], rows)}\n{LEGEND}" if rows else "nothing to fold"
        text = with_left_out(text, {row.path: row.skipped for row in self.rows if row.skipped}, "nothing folded into")
        return with_left_out(text, self.left_out)

    @property
    def told(self) -> set[str]:
        """The parameters that the rows name."""
        return {path for row in self.rows for path in (row.path, *filter(None, [row.bias]), *row.taken)}
