"""The header of a file, checked: the one door to a file, for those who decode it and who look.

Checksums tell what was altered; they do not tell a file that somebody else made. So every field is checked here before
anything is allocated, and what would unfold into more memory than a limit is refused.
"""

import math
import os
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core import files
from jaxcomp.core.errors import ArgumentError, ArtifactError
from jaxcomp.pack import coding, container, layout

LEAST_LIMIT = 2**30
TIMES_THE_FILE = 1000
"""Without a limit of the caller's, a file may unfold into so many bytes, or so many times its own."""


CODER, FIRST_CODER = "range2", "range"
"""The coder that a header names if codes are range-coded, today and in files of the first version; a file without it
needs no extra to be read."""


class Tensor(NamedTuple):
    """A tensor of a file, not yet decoded.

    Attributes:
      name: its path string.
      keys: JSON-able keys, from the root.
      shape: dimensions.
      dtype: dtype.
      coded: how it is coded, and its streams.
    """

    name: str
    keys: list[Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    coded: coding.Coded

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class Stored(NamedTuple):
    """The contents of a file.

    Attributes:
      tensors: in the order of the saved tree.
      empty: ``(index among all rows, keys, the empty container)`` of each empty subtree.
      metadata: as saved.
      rewrites: ``[name, in words, decision]`` of each rewrite that the parameters went through, if they are those of a
        rewritten function.
    """

    tensors: list[Tensor]
    empty: list[tuple[int, list[Any], Any]]
    metadata: dict[str, Any]
    rewrites: list[tuple[str, str, Any]]


def read(path: str | os.PathLike[str], max_bytes: int | None, *, at_least: int = 0) -> Stored:
    """Reads a file and checks all of it but the insides of its streams.

    Args:
      path: the file.
      max_bytes: the most bytes that its arrays may take in memory; its header may take a 64th of it, or 16 MiB.
        None: 1 GiB, or 1000 times the file, or ``at_least``, whichever is most.
      at_least: bytes that the caller expects.

    Raises:
      ArgumentError: if ``max_bytes`` is no whole number of bytes.
      ArtifactError: if the file is no artifact, was cut short or altered, was made by something else, or unfolds into
        more than ``max_bytes``.
    """
    limit = _limit(path, max_bytes, at_least)
    header, blocks = container.read(path, max_header=max(container.MAX_HEADER, (max_bytes or 0) // 64))
    try:
        stored = _stored(header, blocks)
    except container.FORGED as error:
        raise container.foreign(path, error) from error
    size = sum(tensor.nbytes for tensor in stored.tensors)
    if size > limit:
        raise ArtifactError(
            f"{path}: its arrays take {size:,} bytes in memory, and the limit is {limit:,}: if the file comes from "
            f"someone you trust, give max_bytes={size} or more"
        )
    return stored


def _limit(path: str | os.PathLike[str], max_bytes: int | None, at_least: int) -> int:
    if max_bytes is None:
        return max(LEAST_LIMIT, TIMES_THE_FILE * files.size(path), at_least)
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer) or max_bytes < 0:
        raise ArgumentError(f"max_bytes must be None or a whole number of bytes, got {max_bytes!r}")
    return int(max_bytes)


def _stored(header: dict[str, Any], blocks: list[container.Block]) -> Stored:
    unread = header.keys() - {"empty", "off_grid", "metadata", "rewrites", "coder"}
    if unread:
        raise ValueError(f"nothing here reads {sorted(unread)} of the header")
    if header.get("coder", CODER) not in (CODER, FIRST_CODER):
        raise ValueError(f"its coder, {header['coder']!r:.40}, is none that this jaxcomp has")
    off_grid = _indices(header.get("off_grid", []), len(blocks))
    first = header.get("coder") == FIRST_CODER
    tensors = [_tensor(block, i in off_grid, first) for i, block in enumerate(blocks)]
    empty = [_empty(*row) for row in header.get("empty", [])]
    indices = [index for index, _, _ in empty]
    if indices != sorted(_indices(indices, len(tensors) + len(empty))):
        raise ValueError(f"the rows of empty subtrees are in order, not {indices}")
    spelled = layout.names([*(t.keys for t in tensors), *(keys for _, keys, _ in empty)])
    metadata = header.get("metadata", {})
    container.check_metadata(metadata)
    rewrites = [_rewrite(*row) for row in header.get("rewrites", [])]
    if any(t.coded.ranged for t in tensors) != ("coder" in header):
        raise ValueError("the header names the coder of range-coded tensors where there are any")
    return Stored([t._replace(name=name) for t, name in zip(tensors, spelled, strict=False)], empty, metadata, rewrites)


def _rewrite(name: Any, said: Any, data: Any) -> tuple[str, str, Any]:
    if type(name) is not str or type(said) is not str:
        raise ValueError(f"a rewrite has a name and words, not {name!r:.40} and {said!r:.40}")
    return name, said, data


def _tensor(block: container.Block, off_grid: bool, first_version: bool) -> Tensor:
    keys, shape, dtype, kind, args = block.about
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"a shape is a list of sizes, not {shape!r}")
    if type(keys) is not list or type(kind) is not str or type(args) is not list:
        raise ValueError(f"a tensor has keys, a kind and numbers, not {keys!r}, {kind!r} and {args!r}")
    coded = coding.Coded(kind, args, block.streams, off_grid, first_version)
    return Tensor("", keys, tuple(shape), coding.dtype_named(dtype), coded)


def _empty(index: int, keys: list[Any], value: Any) -> tuple[int, list[Any], Any]:
    if not any(type(value) is type(empty) and value == empty for empty in layout.EMPTY):
        raise ValueError(f"an empty subtree is {{}}, [] or null, not {value!r}")
    return index, keys, value


def _indices(values: Any, size: int) -> set[int]:
    if type(values) is not list or not all(type(i) is int and 0 <= i < size for i in values):
        raise ValueError(f"rows are numbered from 0 to {size - 1}, not {values!r}")
    if len(set(values)) != len(values):
        raise ValueError(f"a row is named once, not as in {values!r}")
    return set(values)
