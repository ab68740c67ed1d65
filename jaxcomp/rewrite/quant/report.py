"""The report of quantization, as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from jaxcomp.core.tables import dims, table, with_left_out
from jaxcomp.quant.formats import Format
from jaxcomp.rewrite.quant.integers import QuantizedRun, sites_in
from jaxcomp.rewrite.quant.targets import Targets
from jaxcomp.rewrite.rewritten import run_packed
from jaxcomp.trace.account import left_out
from jaxcomp.trace.ir import Program
from jaxcomp.trace.packed.codes import Codes
from jaxcomp.trace.sites import sites_of
from jaxcomp.trace.uses import uses_of


class QuantRow(NamedTuple):
    """The treatment of one weight that a matmul or convolution reads.

    Attributes:
      path: the weight.
      shape: its own.
      format: its codes' bits, or the name of their format if they are no integers; ``""`` if it stays as it is.
      inputs: how what its sites read is quantized, as ``"static 8"``; ``""`` if it is not.
      skipped: why it, or what its sites read, is not quantized as asked; what else reads its value.
      bytes: of everything in its place.
      dense_bytes: its own, before.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    inputs: str
    skipped: str
    bytes: int
    dense_bytes: int


LEGEND = "format: bits of a weight, or its name; inputs: how layer inputs are quantized, and to how many bits"


def _sizes(rows: Sequence[QuantRow]) -> list[str]:
    return [f"{sum(getattr(row, name) for row in rows):,}" for name in ("bytes", "dense_bytes")]


@dataclass(frozen=True)
class QuantReport:
    """The treatment of every weight that a matmul or convolution reads; prints as a table.

    Attributes:
      rows: one a weight, in order of the tree's leaves.
      left_out: ``{path: what reads it}`` of all other parameters, which stay as they are.
    """

    rows: tuple[QuantRow, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        done, others = ([row for row in self.rows if bool(row.format) == those] for those in (True, False))
        rows = [[r.path, dims(r.shape), r.format, r.inputs, *_sizes([r])] for r in done]
        if others:
            rows.append([f"{len(others)} not quantized", "", "", "", *_sizes(others)])
        columns = ["weight", "shape", "format", "inputs", "bytes", "before"]
        text = f"{table(columns, rows, ['total', '', '', '', *_sizes(self.rows)])}\n{LEGEND}"
        text = with_left_out(text, {row.path: row.skipped for row in done if row.skipped}, "not as asked")
        text = with_left_out(text, {row.path: row.skipped for row in others}, "not quantized")
        return with_left_out(text, self.left_out)


def report_of(
    program: Program, inputs: tuple[Any, ...], packed: Mapping[str, Codes], targets: Targets, named: Mapping[str, Any]
) -> QuantReport:
    """Reports what a run on inputs of these shapes does.

    Args:
      program: a traced function.
      inputs: its arguments beside the parameters, or their shapes.
      packed: the quantized parameters, by path.
      targets: the weights that are quantized.
      named: all parameters, by path.
    """
    run = QuantizedRun(sites_in(program))

    def go(packed: Mapping[str, Codes], named: Mapping[str, Any], inputs: Any) -> Any:
        leaves = [packed[path].opened() if path in packed else named[path] for path in program.paths]
        return run_packed(program, run, leaves, inputs)

    jax.eval_shape(go, packed, dict(named), inputs)
    others = _left(program, named)
    rows = []
    for path in program.paths:
        if path in packed:
            own, dense_at = targets.weights[path].scheme, run.dense_at.get(path, "")
            whole = f"{own.inputs} {_said(own.input_format)}" if path in run.in_integers else ""
            read_by = f"{run.read_by[path]} reads its value" if path in run.read_by else ""
            skipped = "; ".join(filter(None, (targets.skipped.get(path, ""), dense_at, read_by)))
            size = sum(_bytes(part) for part in packed[path].parts.values())
            rows.append(QuantRow(path, named[path].shape, _said(own.format), whole, skipped, size, _bytes(named[path])))
        elif path in targets.skipped or path in others:
            size = _bytes(named[path])
            why = targets.skipped.get(path) or others[path]
            rows.append(QuantRow(path, named[path].shape, "", "", why, size, size))
    return QuantReport(tuple(rows), left_out(program, {row.path for row in rows}))


def _left(program: Program, named: Mapping[str, Any]) -> dict[str, str]:
    """Why weights that sites read in some other way cannot be quantized."""
    read = {path for site in sites_of(program).rows for path in site.paths}
    uses = uses_of(program)
    return {
        path: uses[path].elsewhere() for path in program.paths if path in read and path in uses and not uses[path].sites
    }


def _said(format: Format) -> str:
    return str(format.bits) if format.kind == "integer" else format.name


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
