"""Codes as the bits that they are worth: a range coder (of the extra ``pack``) with the tables of ``contexts``."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcomp.core.errors import MissingExtraError
from jaxcomp.pack.contexts import TOTAL, WIDEST, Contexts, Layout
from jaxcomp.pack.fields import Span

_PART = 1 << 22
"""Codes of a part of a stream: a long one would be held twice."""

_GREATEST = 1 << 15


class Numbers(NamedTuple):
    """Numbers that a reader needs beside the stream.

    Attributes:
      low, high: the least and the greatest code.
      mean: their mean magnitude, in 16ths.
      ends: bytes of each part of the stream but the last.
      first_version: whether it is of a file of the first version, with longer slices.
    """

    low: int
    high: int
    mean: int
    ends: tuple[int, ...] = ()
    first_version: bool = False

    @classmethod
    def checked(cls, given: Any, first_version: bool = False) -> "Numbers":
        """Checks the numbers of a file.

        Args:
          given: as read.
          first_version: whether the file is of the first version.

        Raises:
          ValueError: for others than :func:`encode` gives.
        """
        low, high, mean, *ends = given
        if not all(type(number) is int for number in given) or not 0 < high - low < WIDEST:
            raise ValueError(f"codes go from a least to a greatest, less than {WIDEST} more, not as {given!r:.60}")
        if max(abs(low), abs(high)) >= _GREATEST or not 0 <= mean < 2**32 or min(ends, default=0) < 0:
            raise ValueError(f"codes that have tables are of 16 bits, not as {given!r:.60}")
        return cls(low, high, mean, tuple(ends), first_version)

    @property
    def stored(self) -> list[int]:
        """As a file has them."""
        return [self.low, self.high, self.mean, *self.ends]

    @property
    def contexts(self) -> tuple[int, int, int]:
        """The numbers that the tables depend on: the least and the greatest code, and their mean magnitude."""
        return self[:3]


def installed() -> bool:
    """Returns whether the range coder is installed."""
    return importlib.util.find_spec("constriction") is not None


def codable(held: Span | None) -> bool:
    """Returns whether codes of a span have tables."""
    return held is not None and 0 < held.high - held.low < WIDEST and max(abs(held.low), abs(held.high)) < _GREATEST


def encode(
    shape: tuple[int, ...], codes: Callable[[np.ndarray], np.ndarray], numbers: Numbers
) -> tuple[Numbers, bytearray]:
    """Encodes a tensor of codes to a stream, and the numbers that go with it.

    Args:
      shape: its shape.
      codes: positions in the flat tensor to its codes, int64.
      numbers: their span.

    Raises:
      MissingExtraError: without constriction.

    Example:
      >>> codes = np.random.default_rng(0).integers(-1, 2, 4000) * (np.arange(4000) % 10 < 1)
      >>> numbers, stream = encode((400, 10), codes.__getitem__, Numbers(-1, 1, 1))
      >>> len(stream) < 400 * 1.6 / 8 * 1.2 + 40
      True
      >>> all((codes[where] == found).all() for where, found in decode(stream, (400, 10), numbers))
      True
    """
    coder = constriction()
    stream, ends, encoder, held = bytearray(), [], coder.stream.queue.RangeEncoder(), 0
    for part in _sliced(shape, codes, numbers):
        if held >= _PART:
            ends.append(_append(stream, encoder))
            encoder, held = coder.stream.queue.RangeEncoder(), 0
        symbols = (part.codes.reshape(-1) - numbers.low).astype(np.int32)[part.order]
        for table, (_, begin, end) in zip(part.tables, part.runs, strict=True):
            encoder.encode(symbols[begin:end], _model(coder, table))
        held += symbols.size
    _append(stream, encoder)
    return numbers._replace(ends=tuple(ends)), stream


def decode(stream: Any, shape: tuple[int, ...], numbers: Numbers) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields positions in the flat tensor and the codes there, piece by piece: the inverse of :func:`encode`.

    Args:
      stream: of the tensor.
      shape: its shape.
      numbers: that went with the stream.

    Raises:
      MissingExtraError: without constriction.
      ValueError: if the stream is no such one.
    """
    coder, layout, rest = constriction(), Layout.of(shape), memoryview(stream)
    contexts, ends, held = Contexts(layout, *numbers.contexts), list(numbers.ends), _PART
    decoder: Any = None
    for begin, end in layout.slices(numbers.first_version):
        if held >= _PART:
            _check_end(decoder)
            size = ends.pop(0) if ends else len(rest)
            decoder, held = coder.stream.queue.RangeDecoder(_words(rest[:size])), 0
            rest = rest[size:]
        which = contexts.of(begin, end)
        order, runs = _grouped(which)
        tables, symbols = contexts.tables([number for number, _, _ in runs]), np.empty(which.size, np.int64)
        for table, (_, first, last) in zip(tables, runs, strict=True):
            symbols[order[first:last]] = _decoded(decoder, _model(coder, table), last - first)
        codes = (symbols + numbers.low).reshape(which.shape)
        contexts.see(begin, codes, which)
        held += codes.size
        yield layout.positions(begin, end), codes.reshape(-1)
    _check_end(decoder)
    if len(rest) or ends:
        raise ValueError("a stream holds more codes than the tensor")


def ideal_bytes(shape: tuple[int, ...], codes: Callable[[np.ndarray], np.ndarray], numbers: Numbers) -> float:
    """Computes the model's own code length in bytes: what the tables give, without the coder's loss.

    Args:
      shape, codes, numbers: as of :func:`encode`.
    """
    bits = 0.0
    for part in _sliced(shape, codes, numbers):
        symbols = (part.codes.reshape(-1) - numbers.low)[part.order]
        for table, (_, begin, end) in zip(part.tables, part.runs, strict=True):
            bits -= float(np.log2(table[symbols[begin:end]] / TOTAL).sum())
    return bits / 8


def modeled(
    shape: tuple[int, ...], codes: Callable[[np.ndarray], np.ndarray], numbers: Numbers
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields positions in the flat tensor, slice by slice, the table of each, and all tables once these were seen.

    Args:
      shape, codes, numbers: as of :func:`encode`.
    """
    layout = Layout.of(shape)
    contexts = Contexts(layout, *numbers.contexts)
    for begin, end in layout.slices():
        which, positions = contexts.of(begin, end), layout.positions(begin, end)
        contexts.see(begin, codes(positions).reshape(which.shape), which)
        yield positions, which.reshape(-1), contexts.tables()


class _Slice(NamedTuple):
    """Codes, the tables that they take, their order by table, and which run of them is whose."""

    codes: np.ndarray
    tables: np.ndarray
    order: np.ndarray
    runs: list[tuple[int, int, int]]


def _sliced(shape: tuple[int, ...], codes: Callable[[np.ndarray], np.ndarray], numbers: Numbers) -> Iterator[_Slice]:
    layout = Layout.of(shape)
    contexts = Contexts(layout, *numbers.contexts)
    for begin, end in layout.slices(numbers.first_version):
        which = contexts.of(begin, end)
        own = codes(layout.positions(begin, end)).reshape(which.shape)
        order, runs = _grouped(which)
        yield _Slice(own, contexts.tables([number for number, _, _ in runs]), order, runs)
        contexts.see(begin, own, which)


def _grouped(which: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Codes of one table after the other: their order, and ``(table, begin, end)`` of each."""
    flat = which.reshape(-1)
    counts = np.bincount(flat)
    ends = np.cumsum(counts)
    runs = [(int(table), int(ends[table] - counts[table]), int(ends[table])) for table in np.flatnonzero(counts)]
    return np.argsort(flat, kind="stable"), runs


def _model(coder: Any, table: np.ndarray) -> Any:
    # Sixteen bits at most: float32 holds them, and their sum, exactly. `perfect` is slow and no better here.
    return coder.stream.model.Categorical((table / TOTAL).astype(np.float32), perfect=False)


def _decoded(decoder: Any, model: Any, count: int) -> np.ndarray:
    try:
        return decoder.decode(model, count)
    except Exception as error:  # it says in several ways that bits are none of its own
        raise ValueError(f"a stream of codes cannot be decoded: {error}") from error


def _check_end(decoder: Any) -> None:
    if decoder is not None and not decoder.maybe_exhausted():
        raise ValueError("a stream holds more codes than the tensor")


def _append(stream: bytearray, encoder: Any) -> int:
    """Puts what was coded at the end of a stream; how many bytes."""
    raw = encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    stream += raw
    return len(raw)


def _words(stream: Any) -> np.ndarray:
    raw = bytes(stream)
    return np.frombuffer(raw + bytes(-len(raw) % 4), "<u4").astype(np.uint32)


def constriction() -> Any:
    """Imports the package of the range coder.

    Raises:
      MissingExtraError: without it, with the extra that brings it.
    """
    try:
        import constriction as package
    except ImportError as error:
        raise MissingExtraError(
            "range coding needs constriction, of the extra 'pack': pip install 'jaxcomp[pack]'"
        ) from error
    return package
