"""The report of layers that were rounded: a row a weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxcomp.core.tables import dims, table, with_left_out

ALL_AT_ONCE = "in a loop, a branch or a shard_map: layers there are rounded all at once, their errors not measured"
"""The remark on the weights of such layers."""


class RoundRow(NamedTuple):
    """The treatment of one weight.

    Attributes:
      path: the weight.
      shape: its own.
      format: of its codes; ``""`` if it was not rounded.
      method: how it was rounded.
      back: the fraction of its outputs that are rounded to the nearest after all, as nothing better was found.
      error: the squared error of its sites' results on the examples that were held out, what quantized inputs and
        earlier layers do to them included, over the squares of the outputs before; None if not known.
      bias: the parameter in which the mean of that error is corrected; ``""`` if it is not.
      unmoved: why it is not.
      skipped: why it, or its rounding, is not as asked for.
    """

    path: str
    shape: tuple[int, ...]
    format: str = ""
    method: str = ""
    back: float = 0.0
    error: float | None = None
    bias: str = ""
    unmoved: str = ""
    skipped: str = ""


LEGEND = (
    "nearest: share of outputs for which that was best; error: squared, over outputs' squares; bias: takes up its mean"
)


@dataclass(frozen=True)
class RoundReport:
    """The treatment of every weight that a matmul or convolution reads, in order of the leaves; prints as a table.

    Attributes:
      rows: one a weight.
      left_out: ``{path: what reads it}`` of the parameters that are neither weights nor their biases.
      judged: on which examples errors were measured.
    """

    rows: tuple[RoundRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    judged: str = ""

    def __str__(self) -> str:
        done, others = ([row for row in self.rows if bool(row.method) == those] for those in (True, False))
        rows = [
            [row.path, dims(row.shape), row.format, row.method, f"{row.back:.0%}",
             "" if row.error is None else f"{row.error:.5f}", row.bias]
            for row in done
        ]  # fmt: skip
        columns = ["weight", "shape", "format", "method", "nearest", "error", "bias"]
        text = "\n".join(filter(None, [table(columns, rows), LEGEND, self.judged]))
        text = with_left_out(text, {row.path: row.unmoved for row in done if row.unmoved}, "error's mean stays")
        text = with_left_out(text, {row.path: row.skipped for row in done if row.skipped}, "not as asked")
        text = with_left_out(text, {row.path: row.skipped for row in others}, "not rounded")
        return with_left_out(text, self.left_out)
