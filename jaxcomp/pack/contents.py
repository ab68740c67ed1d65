"""What a file holds, and how many bytes each tensor of it takes."""

import math
import os
from typing import Any, NamedTuple

from jaxcomp.pack import container, stored


class TensorInfo(NamedTuple):
    """What a file holds of one tensor.

    Attributes:
      path: path string.
      shape: dimensions.
      dtype: name of the dtype that comes back.
      kind: ``plain``, ``ints`` or ``codes``, with ``+mask`` or ``+gaps`` where zeros are left out.
      stored: bytes in the file, checksum included, its share of the header not.
      dense: bytes of the array in memory.
      off_grid: True where a note gave a grid on which the values do not lie.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    stored: int
    dense: int
    off_grid: bool


class Contents(NamedTuple):
    """What a file holds; printed, one row a tensor.

    Attributes:
      tensors: in the order of the saved tree.
      overhead: bytes of the file that belong to no tensor: the header.
      metadata: as saved.
      rewrites: name and words of each rewrite that made the function of these parameters, in order.
    """

    tensors: tuple[TensorInfo, ...]
    overhead: int
    metadata: dict[str, Any]
    rewrites: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        table = [("path", "shape", "dtype", "kind", "bytes", "dense bytes")]
        for t in self.tensors:
            shape = "x".join(map(str, t.shape)) or "scalar"
            kind = t.kind + " (off its grid)" * t.off_grid
            table.append((t.path, shape, t.dtype, kind, str(t.stored), str(t.dense)))
        stored = self.overhead + sum(t.stored for t in self.tensors)
        table.append(("header", "", "", "", str(self.overhead), ""))
        table.append(("total", "", "", "", str(stored), str(sum(t.dense for t in self.tensors))))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [c.rjust(w) if i > 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        if self.rewrites:
            lines.insert(0, "rewrites: " + " -> ".join(f"{name} ({said})" for name, said in self.rewrites))
        return "\n".join(lines)


def inspect(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Contents:
    """What a file holds, without decoding it: one row a tensor, with its form and its size.

    Args:
      path: the file.
      max_bytes: as in :func:`jaxcomp.pack.load`, so that both refuse the same files.

    Returns:
      The rows, which print as a table.

    Raises:
      ArtifactError: if the file is no artifact, was cut short or altered, or is larger than ``max_bytes``.

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
    for name, _, shape, dtype, coded in held.tensors:
        size = sum(map(len, coded.streams)) + container.CHECKSUM_BYTES
        dense = math.prod(shape) * dtype.itemsize
        tensors.append(TensorInfo(name, shape, dtype.name, coded.kind, size, dense, coded.off_grid))
    overhead = os.path.getsize(path) - sum(t.stored for t in tensors)
    return Contents(tuple(tensors), overhead, held.metadata, tuple((name, said) for name, said, _ in held.rewrites))
