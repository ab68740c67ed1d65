"""The outcome of compression, parameter by parameter, against what was asked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.finite import not_finite
from jaxcomp.core.leaves import is_key
from jaxcomp.core.paths import named_leaves
from jaxcomp.core.tables import table
from jaxcomp.core.types import Note, Params
from jaxcomp.measure.text import count, fitting, percent


class Row(NamedTuple):
    """One parameter of a :class:`Summary`, one of the layers stacked in it, or its totals.

    Attributes:
      path: the path string of the parameter; of stacked layers with the index of each, ``blocks/kernel[0]``.
      shape: its shape.
      dtype: its dtype, as text.
      parameters: the number of its values.
      nonzeros: how many of them are not zero; a PRNG key counts as not zero.
      asked: the fraction of zeros asked for, in [0, 1]; None if nothing was asked. Under global scope it is
        asked of the whole group, so that only :attr:`Summary.reached` can be held against it.
      sparsity: the fraction of zeros reached, in [0, 1].
      bits: bits of a stored value; None in the totals.
      dense_bytes: bytes of all values at the dtype's own width.
      coded_bytes: bytes as codes and positions: ``bits`` a value, of all values or of the non-zeros beside a bit mask,
        whichever is smaller. Without scales, codebooks, headers and entropy coding: a file is of yet another size.
      note: why the parameter was left out, or what is odd about it; empty if nothing.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    nonzeros: int
    asked: float | None
    sparsity: float
    bits: int | None
    dense_bytes: int
    coded_bytes: int
    note: str


@dataclass(frozen=True)
class Summary:
    """The rows of a parameter tree and their totals; ``print`` shows a table, and so does ``rich.print``.

    Attributes:
      rows: one a leaf, in the tree's own order; of layers that are stacked (:func:`jaxcomp.stacked`) one each.
    """

    rows: tuple[Row, ...]

    @property
    def total(self) -> Row:
        """The sums of the rows, and the sparsity of all of them, as a row of the path ``total``."""
        parameters, nonzeros = self._sum("parameters"), self._sum("nonzeros")
        sparsity = _zeros(parameters, nonzeros)
        sizes = self._sum("dense_bytes"), self._sum("coded_bytes")
        return Row("total", (), "", parameters, nonzeros, None, sparsity, None, *sizes, "")

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over every leaf, asked or not, in [0, 1]."""
        return self.total.sparsity

    @property
    def asked(self) -> float | None:
        """The fraction of zeros asked for, over the leaves of which any was asked; None if of none."""
        rows = [row for row in self.rows if row.asked is not None]
        weights = sum(row.parameters for row in rows)
        return sum((row.asked or 0.0) * row.parameters for row in rows) / weights if weights else None

    @property
    def reached(self) -> float | None:
        """The fraction of zeros over the same leaves as :attr:`asked`; None if there are none."""
        rows = [row for row in self.rows if row.asked is not None and row.parameters]
        if not rows:
            return None
        return _zeros(sum(row.parameters for row in rows), sum(row.nonzeros for row in rows))

    @property
    def ratio(self) -> float:
        """Dense bytes over those of codes and positions; 1 for a tree without values."""
        total = self.total
        return total.dense_bytes / total.coded_bytes if total.coded_bytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as numbers, strings and lists, for ``json.dumps``."""
        return {
            "rows": [{**row._asdict(), "shape": list(row.shape)} for row in self.rows],
            "total": {**self.total._asdict(), "shape": []},
            "sparsity": self.sparsity,
            "asked": self.asked,
            "reached": self.reached,
            "ratio": self.ratio,
        }

    def __str__(self) -> str:
        columns, rows, total, below = self._table()
        return "\n".join([table(columns, rows, total), *below])

    def __rich_console__(self, console: Any, options: Any) -> Any:
        columns, rows, total, below = self._table()
        yield fitting(console, options, columns, rows, total, folded=FOLDED, caption="\n".join(below))

    def _table(self) -> tuple[list[str], list[list[str]], list[str], list[str]]:
        """Headings, cells, those of the totals, and the lines below: each note once, and the verdict."""
        notes = list(dict.fromkeys(row.note for row in self.rows if row.note))
        numbers = {note: f"{i}" for i, note in enumerate(notes, 1)}
        rows = [_cells(row, numbers) for row in self.rows]
        columns = [self.form if name == "dense" else name for name in COLUMNS]
        below = [f"note {number}: {note}" for note, number in numbers.items()]
        return columns, rows, _cells(self.total, {}), [*below, self._verdict()]

    @property
    def form(self) -> str:
        """The dtype of all leaves, if they have one in common; else ``"dense"``."""
        dtypes = {row.dtype for row in self.rows}
        return dtypes.pop() if len(dtypes) == 1 else "dense"

    def _sum(self, field: str) -> int:
        return sum(getattr(row, field) for row in self.rows)

    def _verdict(self) -> str:
        total = self.total
        dense, coded = count(total.dense_bytes), count(total.coded_bytes)
        form = self.form if self.form == "dense" else f"in {self.form}"
        verdict = f"{dense} bytes {form}, {coded} as codes and positions ({self.ratio:.2f}x)"
        if self.reached is None:
            return verdict
        leaves = sum(row.asked is not None for row in self.rows)
        return (
            f"{verdict}\nsparsity was asked of {leaves} of {len(self.rows)} leaves: "
            f"{percent(self.asked)}, reached {percent(self.reached)}"
        )


COLUMNS = ("path", "shape", "dtype", "parameters", "non-zero", "reached", "asked", "bits", "dense", "codes", "note")

FOLDED = ((0, 1), (2, 7), (3, 4), (5, 6), (8, 9), (10,))
"""The columns that stand over each other where the terminal is narrow."""


def _cells(row: Row, notes: Mapping[str, str]) -> list[str]:
    """A row as text, in the order of COLUMNS; of its note the number."""
    return [
        row.path,
        "x".join(map(str, row.shape)),
        row.dtype,
        count(row.parameters),
        count(row.nonzeros),
        percent(row.sparsity),
        percent(row.asked),
        "" if row.bits is None else str(row.bits),
        count(row.dense_bytes),
        count(row.coded_bytes),
        notes.get(row.note, ""),
    ]


def summary(params: Params, *, notes: Mapping[str, Note] | None = None) -> Summary:
    """Counts what a view of the parameters holds, leaf by leaf, against what was asked.

    ``sparsity = 1 - nonzeros / parameters`` and, of n values with m non-zeros at b bits,
    ``coded_bytes = min(ceil(n b / 8), ceil(n / 8) + ceil(m b / 8))``.

    Args:
      params: any pytree of concrete arrays: for a compressor, its view ``recipe.apply(params, state)``.
      notes: ``recipe.describe(params, state, step)``, keyed by path string; a leaf that it does not name is
        listed with "no rule selects it". None for a tree that was not compressed.

    Returns:
      A :class:`Summary` with one :class:`Row` a leaf or stacked layer. Bits are those of the note, else of the dtype.

    Raises:
      ArgumentError: if a note names a path that ``params`` lacks, or a leaf has a shape but no values.

    Example:
      >>> import jax.numpy as jnp
      >>> view = {"fc": {"kernel": jnp.array([[0.0, 2.0], [0.0, 0.0]]), "bias": jnp.ones(2)}}
      >>> print(summary(view, notes={"fc/kernel": Note(sparsity=0.75, bits=4)}))
      path       shape  dtype    parameters  non-zero  reached   asked  bits  float32  codes  note
      ---------  -----  -------  ----------  --------  -------  ------  ----  -------  -----  ----
      fc/bias    2      float32           2         2    0.00%            32        8      8     1
      fc/kernel  2x2    float32           4         1   75.00%  75.00%     4       16      2
      ---------  -----  -------  ----------  --------  -------  ------  ----  -------  -----  ----
      total                               6         3   50.00%                     24     10
      note 1: no rule selects it
      24 bytes in float32, 10 as codes and positions (2.40x)
      sparsity was asked of 1 of 2 leaves: 75.00%, reached 75.00%
    """
    leaves = named_leaves(params)
    strangers = [path for path in notes or {} if path not in leaves]
    if strangers:
        raise ArgumentError(
            f"the notes name {strangers[0]!r} ({len(strangers)} such paths), which the parameters lack; "
            f"their paths are like {next(iter(leaves), '(none)')!r}. Describe and summarize the same tree."
        )
    return Summary(tuple(row for path, leaf in leaves.items() for row in _rows(path, leaf, notes)))


def _rows(path: str, leaf: Any, notes: Mapping[str, Note] | None) -> list[Row]:
    note = None if notes is None else notes.get(path, Note(skipped="no rule selects it"))
    if note is None or not note.layers or isinstance(leaf, jax.ShapeDtypeStruct):
        return [_row(path, leaf, note)]
    layers = np.moveaxis(np.asarray(leaf), note.axis or 0, 0)
    return [_row(f"{path}[{i}]", *each) for i, each in enumerate(zip(layers, note.layers, strict=True))]


def _row(path: str, leaf: Any, note: Note | None) -> Row:
    dtype, shape, parameters, nonzeros, width = _count(path, leaf)
    asked = None if note is None or note.sparsity is None else float(note.sparsity)
    bits = width if note is None or note.bits is None else int(note.bits)
    dense, coded = _bytes(parameters, width), _bytes(parameters, bits)
    coded = min(coded, _bytes(parameters, 1) + _bytes(nonzeros, bits))
    sparsity = _zeros(parameters, nonzeros)
    lost = f"{not_finite(leaf):,} are NaN or infinite" if not_finite(leaf) else ""
    remark = "; ".join(filter(None, (lost, _remark(note, parameters, nonzeros))))
    return Row(path, shape, dtype, parameters, nonzeros, asked, sparsity, bits, dense, coded, remark)


def _count(path: str, leaf: Any) -> tuple[str, tuple[int, ...], int, int, int]:
    """A leaf's dtype, shape, number of values, number of non-zeros, and bits of one value."""
    if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
        raise ArgumentError(f"{path!r} has a shape but no values: summarize arrays, outside of jit and eval_shape")
    if is_key(leaf):
        return str(leaf.dtype), leaf.shape, leaf.size, leaf.size, 8 * leaf.dtype.itemsize
    values = np.asarray(leaf)
    numeric = values.dtype.kind not in "OSUMm"
    width = jax.dtypes.itemsize_bits(values.dtype) if numeric else 8 * values.dtype.itemsize
    return str(values.dtype), values.shape, values.size, int(np.count_nonzero(values)), width


def _remark(note: Note | None, parameters: int, nonzeros: int) -> str:
    if note is None or note.skipped is not None or parameters == 0:
        return "" if note is None else note.skipped or "it holds no values"
    return "; ".join(filter(None, ("every weight is zero" if nonzeros == 0 else None, note.remark)))


def _zeros(parameters: int, nonzeros: int) -> float:
    return (parameters - nonzeros) / parameters if parameters else 0.0


def _bytes(values: int, bits: int) -> int:
    return math.ceil(values * bits / 8)
