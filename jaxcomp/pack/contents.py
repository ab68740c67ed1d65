"""Contents of a file, and how many bytes each tensor of it takes."""

import os
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core import files
from jaxcomp.pack import coding, container, entropy, stored


class TensorInfo(NamedTuple):
    """One tensor of a file.

    Attributes:
      path: path string.
      shape: dimensions.
      dtype: name of the dtype that comes back.
      kind: ``plain``, ``ints`` or ``codes``, with ``+mask``, ``+gaps`` or ``+pattern`` where zeros are left out;
        ``ints+range``, ``codes+range`` and ``fields+range`` are range-coded.
      stored: bytes in the file, its share of the header not.
      dense: bytes of the array in memory.
      off_grid: True where a note gave a grid on which the values do not lie.
      values: how many different ones there are; None unless they were measured, and so are the next two.
      entropy: bytes by the frequencies of these alone, which a reader does not know.
      ideal: bytes if the range coder lost nothing: the code length of its tables, and what is not range-coded.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    stored: int
    dense: int
    off_grid: bool
    values: int | None = None
    entropy: float | None = None
    ideal: float | None = None


class Contents(NamedTuple):
    """The contents of a file; printed, one row a tensor.

    Attributes:
      tensors: in the order of the saved tree.
      overhead: bytes of the file that belong to no tensor: the header and the checksum.
      metadata: as saved.
      rewrites: name and words of each rewrite that made the function of these parameters, in order.
    """

    tensors: tuple[TensorInfo, ...]
    overhead: int
    metadata: dict[str, Any]
    rewrites: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        measured = any(t.values is not None for t in self.tensors)
        more = ("values", "entropy", "ideal") if measured else ()
        table = [("path", "shape", "dtype", "kind", *more, "bytes", "dense bytes")]
        for t in self.tensors:
            shape = "x".join(map(str, t.shape)) or "scalar"
            found = (str(t.values), f"{t.entropy:.0f}", f"{t.ideal:.0f}") if measured else ()
            kind = t.kind + " (off its grid)" * t.off_grid
            table.append((t.path, shape, t.dtype, kind, *found, str(t.stored), str(t.dense)))
        sums = ("", *(f"{sum(getattr(t, name) for t in self.tensors):.0f}" for name in more[1:])) if measured else ()
        stored = self.overhead + sum(t.stored for t in self.tensors)
        table.append(("header", "", "", "", *("" for _ in more), str(self.overhead), ""))
        table.append(("total", "", "", "", *sums, str(stored), str(sum(t.dense for t in self.tensors))))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [c.rjust(w) if i > 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        if self.rewrites:
            lines.insert(0, "rewrites: " + " -> ".join(f"{name} ({said})" for name, said in self.rewrites))
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str], *, max_bytes: int | None = None, measured: bool = False) -> Contents:
    """Lists what a file holds: one row a tensor, with its form and its size.

    Args:
      path: the file.
      max_bytes: as in :func:`jaxcomp.pack.load`, so that both refuse the same files.
      measured: decode the tensors, and tell of each how many values it has, their entropy and the code length that its
        bytes come near to.

    Returns:
      The rows, which print as a table.

    Raises:
      ArtifactError: if the file is no artifact, was cut short or altered, or is larger than ``max_bytes``.
      MissingExtraError: if range-coded tensors are to be measured, and the extra ``pack`` is not installed.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from jaxcomp.pack import save
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/m.jcz", {"b": jnp.ones(3), "w": jnp.eye(16)})
      ...     print(inspect(f"{folder}/m.jcz"))
      path    shape  dtype    kind        bytes  dense bytes
      ...
      total                                 ...         1036
    """
    held = stored.read(path, max_bytes)
    tensors = []
    for tensor in held.tensors:
        coded, shape = tensor.coded, tensor.shape
        size = sum(map(len, coded.streams))
        info = TensorInfo(tensor.name, shape, tensor.dtype.name, coded.kind, size, tensor.nbytes, coded.off_grid)
        try:
            tensors.append(_measured(info, tensor) if measured else info)
        except container.FORGED as error:
            raise container.foreign(path, error) from error
    overhead = files.size(path) - sum(t.stored for t in tensors)
    return Contents(tuple(tensors), overhead, held.metadata, tuple((name, said) for name, said, _ in held.rewrites))


def _measured(info: TensorInfo, tensor: stored.Tensor) -> TensorInfo:
    coded, shape = tensor.coded, tensor.shape
    values, ideal = coding.decode(coded, shape, tensor.dtype).reshape(-1), float(sum(map(len, coded.streams)))
    if coded.ranged:
        ranged = coding.ranged_codes(coded, shape)
        ideal += entropy.ideal_bytes(ranged.shape, ranged.codes.__getitem__, ranged.numbers) - ranged.size
        values = ranged.codes if coded.kind == "fields+range" else values
    bits = values.view(f"V{values.itemsize}") if values.dtype.kind in "Vc" else values
    _, counts = np.unique(bits, return_counts=True)
    shares = counts / max(1, values.size)
    return info._replace(values=len(counts), entropy=-float((counts * np.log2(shares)).sum()) / 8 + 0.0, ideal=ideal)
