"""The forms in which a tensor could be stored, and the streams of each: by what of its values stays the same bits."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.pack import fields, lattice, pieces
from jaxcomp.pack.regrid import regrid
from jaxcomp.pack.streams import Squeezer, matches, squeeze

_LITERAL = 2
"""Bytes that a value takes at least where it comes first."""
_GLANCE, _DOUBT = 1 << 12, 1.1

_HEADER = 3
"""Bytes that the header takes for a stream, about."""


class Form(NamedTuple):
    """A way to store a tensor.

    Attributes:
      kind: plain, ints or codes.
      where: how zeros are left out: "", mask or gaps.
      args: as in Coded.
      before: streams between the positions and the values.
      itemsize: bytes of a value as it is stored.
      values: positions to values, in few bytes.
      convert: these to bytes.
    """

    kind: str
    where: str
    args: list[Any]
    before: list[Any]
    itemsize: int
    values: Callable[[np.ndarray], np.ndarray]
    convert: Callable[[np.ndarray], np.ndarray]

    @property
    def name(self) -> str:
        """The kind as it is stored."""
        return self.kind + f"+{self.where}" * bool(self.where)


class Facts(NamedTuple):
    """Facts that decide which forms a tensor can have.

    Attributes:
      zeros: whether some items are +0.0, of all-zero bits.
      negative: whether some are -0.0.
      every: the span of its integers or codes; None: it has none.
      kept: likewise, without those of +0.0.
    """

    zeros: bool
    negative: bool
    every: fields.Span | None
    kept: fields.Span | None

    def joined(self, other: "Facts") -> "Facts":
        every, kept = (
            a.joined(b) if a and b else a or b for a, b in ((self.every, other.every), (self.kept, other.kept))
        )
        return Facts(self.zeros or other.zeros, self.negative or other.negative, every, kept)


class Found(NamedTuple):
    """The grid that a tensor's values lie on.

    Attributes:
      lattice: it, with its numbers in the order of the tensor.
      grid: it, as it was told or found.
      facts: of the codes.
      steps: ``[n]`` int64, the codes less zero points of a small tensor; None: they are made anew where they are asked.
    """

    lattice: lattice.Lattice
    grid: Grid
    facts: Facts
    steps: np.ndarray | None = None

    def codes(self, flat: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from positions of ``flat`` to codes."""

        def codes(positions: np.ndarray) -> np.ndarray:
            held = self.steps
            steps = self.lattice.steps(flat[positions], positions) if held is None else held[positions]
            assert steps is not None  # they were checked
            return self.lattice.codes(steps, positions)

        return codes


def find(array: np.ndarray, grid: Grid, format: str | None) -> Found | None:
    """Finds the grid that the values lie on: the one that was told, or another of the same granularity and format.

    Args:
      array: ``[...]``.
      grid: to try first.
      format: the name of the codes' format; None: integers.
    """
    first = _checked(array, grid, format)
    scale = np.asarray(grid.scale)
    placed = (1,) * (array.ndim - scale.ndim) + scale.shape
    if first is not None or not lattice.is_real(array) or not pieces.fits(array.shape, placed, grid.block):
        return first
    other = regrid(array, grid, format, lattice.working_dtype(array.dtype))
    return None if other is None else _checked(array, other, format)


def _checked(array: np.ndarray, grid: Grid, format: str | None) -> Found | None:
    made, flat = lattice.lattice_of(array, grid, format), array.reshape(-1)
    if made is None:
        return None
    small = flat.size <= pieces.PIECE
    first = pieces.sample(flat.size, flat.size if small else pieces.SAMPLE)
    held = made.steps(flat[first], first)
    if held is None:
        return None

    def facts(piece: tuple[int, int]) -> Facts | None:
        positions = np.arange(*piece)
        steps = held if small else made.steps(flat[slice(*piece)], positions)
        if steps is None:
            return None
        stored, codes = set_bits(flat[slice(*piece)]), made.codes(steps, positions)
        negative = bool((stored & (steps == 0)).any())
        return Facts(not stored.all(), negative, fields.span(codes), fields.span(codes[stored]))

    whole = _whole(flat.size, facts)
    return None if whole is None else Found(made, grid, whole, held if small else None)


def facts_of(flat: np.ndarray) -> Facts:
    """Returns the facts of a tensor on no grid."""
    integers = _are_integers(flat.dtype)

    def facts(piece: tuple[int, int]) -> Facts:
        values = flat[slice(*piece)]
        stored = set_bits(values)
        spans = [fields.span(own.astype(np.int64)) if integers else None for own in (values, values[stored])]
        return Facts(not stored.all(), False, *spans)

    return _whole(flat.size, facts) or Facts(False, False, None, None)


def _whole(size: int, facts: Callable[[tuple[int, int]], Facts | None]) -> Facts | None:
    """The facts of a tensor from those of its pieces."""
    whole = Facts(False, False, None, None)
    for one in pieces.each(facts, size):
        if one is None:
            return None
        whole = whole.joined(one)
    return whole


def _are_integers(dtype: np.dtype) -> bool:
    return dtype.kind == "b" or jax.dtypes.issubdtype(dtype, np.integer)


def forms_of(flat: np.ndarray, found: Found | None, facts: Facts, ndim: int) -> list[Form]:
    """Lists the forms that give back a tensor's bits.

    Args:
      flat: ``[n]``, the tensor.
      found: its grid; None: it is on none.
      facts: of the tensor.
      ndim: its number of axes.
    """
    forms = []
    args, before = lattice.described(found.lattice, found.grid, ndim) if found else ([], [])
    few = (
        facts.zeros and np.count_nonzero(set_bits(flat[pieces.sample(flat.size)])) <= min(flat.size, pieces.SAMPLE) / 2
    )
    ways = ("", "mask", "gaps") if few else ("", "mask") if facts.zeros else ("",)
    bare = ways if found is None or _told(flat, before) else ways[: facts.negative]
    for where in ways:
        if where in bare:
            forms.append(Form("plain", where, [], [], flat.itemsize, flat.__getitem__, _bytes_of))
        held = facts.kept if where else facts.every
        if _are_integers(flat.dtype):
            forms += _packed("ints", where, [], [], held, lambda positions: flat[positions].astype(np.int64))
        # No code stands for -0.0 in a whole tensor; where +0.0 is left out, a stored 0 can be nothing else.
        elif found is not None and (where or not facts.negative):
            forms += _packed("codes", where, args, before, held, found.codes(flat))
    return forms


def _told(flat: np.ndarray, numbers: list[Any]) -> bool:
    """Whether values as they are could tell of their scales in fewer bytes than these take: each is there once."""
    words = flat.view(f"u{flat.itemsize}")[pieces.sample(flat.size, _GLANCE)]
    return _LITERAL * np.unique(words).size < sum(map(len, numbers)) + _HEADER * len(numbers)


def _packed(
    kind: str,
    where: str,
    args: list[Any],
    before: list[Any],
    held: fields.Span | None,
    values: Callable[[np.ndarray], np.ndarray],
) -> list[Form]:
    def narrow(positions: np.ndarray, way: list[int]) -> np.ndarray:
        return fields.narrowed(values(positions), way)

    made = []
    for way in fields.packings(held):
        both = functools.partial(narrow, way=way), functools.partial(fields.laid, packing=way)
        made.append(Form(kind, where, [way, *args], before, fields.itemsize(way), *both))
    return made


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1).view(np.uint8)


def set_bits(flat: np.ndarray) -> np.ndarray:
    """Marks the items that are anything but all-zero bits: -0.0 and NaN are stored, +0.0 is not."""
    word = math.gcd(flat.itemsize, 8)
    words = flat.view(f"u{word}")
    return words != 0 if word == flat.itemsize else np.any(words.reshape(flat.size, -1), axis=1)


def streams_at(flat: np.ndarray, form: Form, where: np.ndarray, most: float, kept: dict[Any, Any]) -> list[Any]:
    """Encodes a tensor at some positions, as if these were all.

    Args:
      flat: ``[n]``, the tensor.
      form: in which.
      where: positions.
      most: bytes above which any streams will do.
      kept: what was found for other forms there, of positions by how zeros are left out, and of values; it is added to.
    """
    positions, streams, most = where, [], most - sum(map(len, form.before))
    if form.where:
        if form.where not in kept:
            stored = set_bits(flat[where])
            packed = fields.bits_of(stored) if form.where == "mask" else fields.Gaps()(stored)
            kept[form.where] = where[stored], squeeze(packed.tobytes(), 1, most)
        positions, stream = kept[form.where]
        streams.append(stream)
    values = form.convert(form.values(positions)).tobytes()
    return [*streams, *form.before, _squeezed(values, form.itemsize, most - sum(map(len, streams)), kept)]


def _squeezed(raw: bytes, itemsize: int, most: float, kept: dict[Any, Any]) -> bytes:
    """Squeezes bytes once: however zeros are left out, the same values stay. What was cut short is not kept."""
    if (raw, itemsize) in kept:
        return kept[raw, itemsize]
    stream = squeeze(raw, itemsize, most)
    if len(stream) < most:
        kept[raw, itemsize] = stream
    return stream


def smallest(flat: np.ndarray, forms: list[Form], where: np.ndarray, most: float) -> tuple[Form, list[Any]]:
    """Encodes a tensor at some positions in each form, and returns the smallest; any, if that takes ``most`` or more.

    Args:
      flat: ``[n]``, the tensor.
      forms: to choose from.
      where: positions.
      most: bytes; forms that leave out zeros are compared with each other alone, as positions have another coder.
    """
    best: tuple[float, Form, list[Any]] | None = None
    kept: dict[Any, Any] = {}
    for form in sorted(forms, key=lambda form: (form.itemsize, not form.where)):  # others give up soon
        least = math.inf if best is None else best[0]
        more = _HEADER * (len(form.before) + 1 + bool(form.where))
        streams = streams_at(flat, form, where, (least if form.where else min(least, most)) - more, kept)
        size = more + sum(map(len, streams))
        best = (size, form, streams) if best is None or size < best[0] else best
    assert best is not None
    return best[1], best[2]


def promising(flat: np.ndarray, forms: list[Form], most: float) -> list[Form]:
    """Drops forms that, at a glance at the tensor, take much more than the best of them, or than ``most`` bytes.

    Args:
      flat: ``[n]``, the tensor.
      forms: to choose from.
      most: bytes.
    """
    where = pieces.sample(flat.size, _GLANCE)
    if 2 * where.size >= flat.size:
        return forms
    sizes: list[float] = []
    share, kept = where.size / flat.size, dict[Any, Any]()
    forms = sorted(forms, key=lambda form: not form.where)  # as in `smallest`
    for form in forms:
        fixed = sum(map(len, form.before))
        streams = streams_at(flat, form, where, fixed + (_DOUBT * min([most, *sizes]) - fixed) * share, kept)
        sizes.append(fixed + (sum(map(len, streams)) - fixed) / share)
    return [form for form, size in zip(forms, sizes, strict=True) if size <= _DOUBT * min(most, *sizes)]


def without_matches(flat: np.ndarray, form: Form, size: int) -> bool:
    """Returns whether a tensor takes as many bytes as its frequencies say, and has no matches, deflate's strength.

    Args:
      flat: ``[n]``, the tensor.
      form: in which.
      size: bytes.
    """
    raw = form.convert(form.values(pieces.sample(flat.size, _GLANCE)))
    counts = np.bincount(raw.reshape(-1), minlength=256)
    shares = counts[counts > 0] / raw.size
    frequencies = -(shares * np.log2(shares)).sum() / 8 * form.itemsize * flat.size
    return form.itemsize == 1 and size <= 1.01 * frequencies and not matches(raw.tobytes())


def in_pieces(flat: np.ndarray, form: Form, tried: list[Any], positions: bool) -> list[Any]:
    """Encodes a large tensor in the form, and each stream in the way, that was best for a sample.

    Args:
      flat: ``[n]``, the tensor.
      form: in which.
      tried: the streams of the sample.
      positions: whether the form stores positions.
    """
    positions = positions and bool(form.where)

    def prepared(piece: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        every = np.arange(*piece)
        stored = set_bits(flat[slice(*piece)]) if form.where else np.ones(0, bool)
        return stored, form.values(every[stored] if form.where else every)

    with pieces.workers() as pool:
        values = Squeezer(pool, bytes(tried[-1][:1]), form.itemsize, form.convert)
        convert = fields.bits_of if form.where == "mask" else np.asarray
        places = Squeezer(pool, bytes(tried[0][:1]), 1, convert)
        gaps = fields.Gaps()
        for stored, chosen in pieces.in_order(pool, prepared, pieces.ranges(flat.size)):
            if positions:
                places.feed(gaps(stored) if form.where == "gaps" else stored)
            values.feed(chosen)
        return [*([places.finish()] if positions else []), *form.before, values.finish()]
