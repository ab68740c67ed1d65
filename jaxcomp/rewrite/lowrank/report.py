"""The report of a factorization, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxcomp.core.tables import table, with_left_out
from jaxcomp.rewrite.lowrank.methods import Rank


@dataclass(frozen=True)
class FactorRow:
    """The treatment of one weight.

    Attributes:
      path: the parameter.
      method: how it was factorized; empty if it was not.
      rank: to which rank.
      energy: the share of its squared entries (with data: of its outputs') that is kept.
      macs, bytes: its costs now.
      dense_macs, dense_bytes: its costs before.
      skipped: why it was left dense.
      plain: why ``batches=``, if given, had no part in its factors.
    """

    path: str
    method: str
    rank: Rank
    energy: float
    macs: int
    bytes: int
    dense_macs: int
    dense_bytes: int
    skipped: str = ""
    plain: str = ""


@dataclass(frozen=True)
class FactorReport:
    """The treatment of every weight that a matmul or convolution reads; prints as a table.

    Attributes:
      rows: one a weight, in order of the tree's leaves.
      dense_macs, dense_bytes: the costs of all sites and parameters before.
      left_out: ``{path: what reads it}`` of all other parameters, which stay as they are.
    """

    rows: tuple[FactorRow, ...]
    dense_macs: int
    dense_bytes: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all sites now."""
        return self.dense_macs - sum(row.dense_macs - row.macs for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of all parameters now."""
        return self.dense_bytes - sum(row.dense_bytes - row.bytes for row in self.rows)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments by which ``factorize`` makes the same function again, whatever the values: plain data."""
        made = {row.path: row for row in self.rows if row.method}
        return {
            "rank": {path: list(row.rank) for path, row in made.items()},
            "method": {path: row.method for path, row in made.items()},
            "cheaper": False,
        }

    def __str__(self) -> str:
        plain = any(row.plain for row in self.rows)
        columns = ["parameter", "method", "rank", "skipped because", *["without data because"] * plain]
        columns += ["energy", "MACs", "before", "bytes", "before"]
        rows = [
            [
                row.path,
                row.method or "dense",
                "x".join(map(str, row.rank)),
                row.skipped,
                *[row.plain] * plain,
                f"{row.energy:.4f}",
                *(f"{n:,}" for n in (row.macs, row.dense_macs, row.bytes, row.dense_bytes)),
            ]
            for row in self.rows
        ]
        totals = [f"{n:,}" for n in (self.macs, self.dense_macs, self.bytes, self.dense_bytes)]
        return with_left_out(table(columns, rows, ["total", *[""] * (len(columns) - 5), *totals]), self.left_out)
