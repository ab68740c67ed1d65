"""Tensors as streams and back: plain, as integers, or as codes on a grid; whole, or without their zeros."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.pack import entropy, fields, lattice, palette, pieces
from jaxcomp.pack.bits import BitFields
from jaxcomp.pack.contexts import UNIT
from jaxcomp.pack.forms import (
    Facts,
    Found,
    facts_of,
    find,
    forms_of,
    in_pieces,
    promising,
    set_bits,
    smallest,
    without_matches,
)
from jaxcomp.pack.streams import expand_into

_KINDS = {f"{kind}{where}" for kind in ("plain", "ints", "codes") for where in ("", "+mask", "+gaps", "+pattern")}
_KINDS |= {"ints+range", "codes+range", "fields+range"}
_NUMBERS, _OTHER_FORM = 3, 9
"""Bytes that the header takes for what goes with a range coder's stream; what a pattern has to save to be taken."""

_CLEAR = 1 << 12
"""Items from which on the range coder is better where nothing repeats."""

_NUMPY = {np.dtype(code).name: np.dtype(code) for code in "?bhiqBHIQefdFD"}


class Coded(NamedTuple):
    """A tensor as streams.

    Attributes:
      kind: ``plain``, ``ints`` or ``codes``, with ``+mask``, ``+gaps`` or ``+pattern`` where zeros are left out;
        ``ints+range``, ``codes+range`` and ``fields+range`` (codes that share bytes) are range-coded, and so is a
        pattern. After ``table:``, the kind of the places in a table of few values.
      args: JSON numbers that the kind needs.
      streams: the positions (where zeros are left out), then what the kind holds.
      off_grid: True where a grid was given and the values lie on none of its kind, bit for bit.
      first_version: whether it was range-coded as in files of the first version.
    """

    kind: str
    args: list[Any]
    streams: list[Any]
    off_grid: bool = False
    first_version: bool = False

    @property
    def ranged(self) -> bool:
        """Whether decoding it takes the range coder."""
        return self.kind.endswith(("+range", "+pattern"))

    @property
    def size(self) -> int:
        """Bytes of its streams, with about what the header says of them."""
        return sum(len(stream) + 3 for stream in self.streams) + _NUMBERS * self.ranged


def dtype_named(name: str) -> np.dtype:
    """Returns the dtype of a name among those that JAX knows.

    Raises:
      ValueError: for any other.
    """
    if not isinstance(name, str):
        raise ValueError(f"a dtype is called by its name, not {name!r}")
    if name in _NUMPY:
        return _NUMPY[name]
    found = getattr(ml_dtypes, name, None)
    if isinstance(found, type) and issubclass(found, np.generic):
        return np.dtype(found)
    raise ValueError(f"no array of JAX has the dtype {name!r}")


def encode(
    array: np.ndarray,
    grid: Grid | None = None,
    format: str | None = None,
    *,
    ranges: bool = False,
    fields: tuple[int, tuple[int, ...]] | None = None,
) -> Coded:
    """Encodes a tensor in the smallest form that gives back its very bits.

    With a grid, the codes of the levels nearest to ``array / scale``, kept only if ``level * scale``, in float32
    (float64 for float64) and cast to the tensor's dtype, is the tensor again. Of values that lie on another grid of the
    same granularity and format, that one is found. A large tensor has the form that is smallest for a sample of it.

    Args:
      array: ``[...]``, of a dtype that JAX knows.
      grid: scale and zero point that broadcast against it, in blocks or not; or None.
      format: the name of the codes' format; None: integers.
      ranges: also with the range coder, where that is smaller.
      fields: bits and shape of codes of which each byte holds several.

    Returns:
      The tensor as streams.

    Raises:
      MissingExtraError: if the range coder is asked for and not installed.

    Example:
      >>> import numpy as np
      >>> from jaxcomp.core.types import Grid
      >>> encode(np.arange(-8, 8, 0.5), Grid(np.float32([0.5]), np.int32([0]))).kind
      'codes'
      >>> encode(np.diag(np.linspace(0.1, 1, 64, dtype=np.float32))).kind
      'plain+gaps'
    """
    array = np.asarray(array, order="C")  # one after the other in memory: their bits are looked at
    flat = array.reshape(-1)
    found = None if grid is None else find(array, grid, format)
    facts = found.facts if found else facts_of(flat)
    apart = BitFields.of(array, fields) if fields and ranges else None
    coded = _ranged(array, found, facts) if ranges and flat.size and not apart else None
    coded = _apart(flat, apart) if apart else coded
    coded = _deflated(array, found, facts, ranges, coded)
    if found is None and (held := palette.of(array)) is not None:
        coded = min(coded, _tabled(held, ranges), key=lambda form: form.size)
    return coded._replace(off_grid=grid is not None and found is None and array.size > 0)


def _tabled(held: palette.Palette, ranges: bool) -> Coded:
    """Few values as their table and the places in it."""
    places = encode(held.places, ranges=ranges)
    numbers = [len(held.table), held.origin, held.places.itemsize]
    return Coded(palette.PREFIX + places.kind, [numbers, *places.args], [held.stream, *places.streams])


def _untabled(coded: Coded) -> tuple[Coded, np.dtype]:
    """Returns how the places of a tensor in a table are coded, and their dtype."""
    numbers, *args = coded.args
    if type(numbers) is not list or len(numbers) != 3 or numbers[2] not in (1, 2) or len(coded.streams) < 2:
        raise ValueError(f"a table has three numbers and two streams, not {numbers!r:.60} and {len(coded.streams)}")
    kind = coded.kind.removeprefix(palette.PREFIX)
    return coded._replace(kind=kind, args=args, streams=coded.streams[1:]), np.dtype(f"i{numbers[2]}")


def _deflated(array: np.ndarray, found: Found | None, facts: Facts, ranges: bool, other: Coded | None) -> Coded:
    """The smallest of the forms without the range coder, but perhaps for the positions; or another that is smaller."""
    flat = array.reshape(-1)
    every = forms_of(flat, found, facts, array.ndim)
    if other is not None and flat.size >= _CLEAR:
        codes = next(form for form in every if form.kind != "plain")
        if without_matches(flat, codes, other.size):
            return other
    forms = promising(flat, every, math.inf if other is None else other.size)
    if other is not None and not forms:
        return other
    where = pieces.sample(flat.size)
    times = flat.size / max(1, where.size)
    form, streams = smallest(flat, forms, where, math.inf if other is None else other.size / times)
    if other is not None and times > 1 and other.size <= times * sum(map(len, streams)):
        return other
    numbers, pattern = _pattern(array) if ranges and form.where else ([], None)
    if pattern is not None and len(pattern) + _OTHER_FORM > times * len(streams[0]):
        pattern = None
    if times > 1:
        streams = in_pieces(flat, form, streams, positions=pattern is None)
    elif pattern is not None:
        streams = streams[1:]
    coded = Coded(form.name, form.args, streams)
    if pattern is not None:
        coded = Coded(f"{form.kind}+pattern", [numbers, *form.args], [pattern, *streams])
    return coded if other is None or coded.size < other.size else other


def _ranged(array: np.ndarray, found: Found | None, facts: Facts) -> Coded | None:
    """The tensor with the range coder, if it is one of codes that have tables."""
    flat = array.reshape(-1)
    if not entropy.codable(facts.every) or facts.negative:
        return None
    assert facts.every is not None
    low, high = facts.every.low, facts.every.high
    if found and found.lattice.shifts is not None:  # zeros are to be 0, whatever the channel
        low, high = low - int(found.lattice.shifts.max()), high - int(found.lattice.shifts.min())
        found = found._replace(lattice=found.lattice._replace(shifts=None))
    if not entropy.codable(fields.Span(low, high)):
        return None
    codes = found.codes(flat) if found else lambda positions: flat[positions].astype(np.int64)
    numbers = entropy.Numbers(low, high, mean_of(codes(pieces.sample(flat.size))))
    numbers, stream = entropy.encode(array.shape, codes, numbers)
    args, before = lattice.described(found.lattice, found.grid, array.ndim) if found else ([], [])
    return Coded("codes+range" if found else "ints+range", [numbers.stored, *args], [*before, stream])


def _apart(flat: np.ndarray, apart: BitFields) -> Coded | None:
    """Codes that share bytes, with the range coder; None if they are all alike."""
    low, high = apart.ends(flat)
    if low == high:
        return None
    numbers = entropy.Numbers(low, high, mean_of(apart.codes(flat, pieces.sample(apart.count))))
    numbers, stream = entropy.encode(apart.shape, functools.partial(apart.codes, flat), numbers)
    return Coded("fields+range", [numbers.stored, apart.per_byte, list(apart.shape)], [stream])


def _pattern(array: np.ndarray) -> tuple[list[int], bytearray]:
    """Where a tensor is not +0.0, range-coded, and the numbers that go with it."""
    flat = array.reshape(-1)

    def codes(positions: np.ndarray) -> np.ndarray:
        return set_bits(flat[positions]).astype(np.int64)

    numbers = entropy.Numbers(0, 1, mean_of(codes(pieces.sample(flat.size))))
    numbers, stream = entropy.encode(array.shape, codes, numbers)
    return numbers.stored[2:], stream


def mean_of(codes: np.ndarray) -> int:
    """Returns the mean magnitude of codes, in 16ths, that tables begin with."""
    return UNIT * int(np.abs(codes).sum()) // codes.size + 1


def decode(coded: Coded, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Decodes the tensor that :func:`encode` was given.

    Args:
      coded: its streams.
      shape: its shape.
      dtype: its dtype.

    Returns:
      ``[*shape]``, its own memory.

    Raises:
      ValueError: if the streams do not make such a tensor, or are not what :func:`encode` makes.

    Example:
      >>> import numpy as np
      >>> decode(encode(np.eye(2)), (2, 2), np.dtype("float64"))
      array([[1., 0.],
             [0., 1.]])
    """
    if coded.kind.startswith(palette.PREFIX) and jax.dtypes.issubdtype(dtype, np.floating):
        places, narrow = _untabled(coded)
        count, origin, _ = coded.args[0]
        table = palette.table_of(count, coded.streams[0], dtype)
        return palette.shown(decode(places, shape, narrow), origin, table)
    if coded.kind not in _KINDS:
        raise ValueError(f"no kind is called {coded.kind!r}: the file may be of a newer jaxcomp")
    kind, _, where = coded.kind.partition("+")
    size, rest, args, bits = math.prod(shape), coded.streams, coded.args, None
    flat, count = np.zeros(size, dtype), size
    if where == "pattern":
        numbers, *args = args
        bits, count = _unpatterned(_numbers(coded, [0, 1, *numbers]), rest[0], shape)
    elif where in ("mask", "gaps"):
        bits, count = fields.unpack_mask(where, rest[0], size)
    rest = rest if bits is None else rest[1:]
    if kind == "plain":
        (stream,), () = rest, args
        _place_items(flat, bits, count, stream)
        return flat.reshape(shape)
    packing, *args = args
    if kind == "fields":
        (stream,), (per_byte, own) = rest, args
        apart, numbers = BitFields(per_byte, own), _numbers(coded, packing)
        apart.place(flat, entropy.decode(stream, apart.shape, numbers), numbers.low, numbers.high)
        return flat.reshape(shape)
    made = lattice.again(args, rest[:-1], shape, dtype) if kind == "codes" else None
    if made is None and len(rest) + len(args) != 1:
        raise ValueError(f"integers have one stream and no more numbers, not {len(rest)} and {args!r:.60}")
    if where == "range":
        _place_ranged(flat, entropy.decode(rest[-1], shape, _numbers(coded, packing)), made)
    else:
        _place(flat, bits, fields.Integers(packing, rest[-1], count), made)
    return flat.reshape(shape)


def _numbers(coded: Coded, given: Any) -> entropy.Numbers:
    return entropy.Numbers.checked(given, coded.first_version)


def _unpatterned(numbers: entropy.Numbers, stream: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """The packed bits of a pattern, and how many are True."""
    kept = np.zeros(math.prod(shape), bool)
    for positions, codes in entropy.decode(stream, shape, numbers):
        kept[positions] = codes
    return np.packbits(kept), int(np.count_nonzero(kept))


class Ranged(NamedTuple):
    """The range-coded part of a tensor.

    Attributes:
      codes: ``[n]`` int64, or where it is not 0.
      shape: of the codes.
      numbers: with which its tables begin.
      size: bytes of its stream.
    """

    codes: np.ndarray
    shape: tuple[int, ...]
    numbers: entropy.Numbers
    size: int


def ranged_codes(coded: Coded, shape: tuple[int, ...]) -> Ranged:
    """Decodes the range-coded part of a tensor of ``shape`` from its streams, ``coded``."""
    if coded.kind.startswith(palette.PREFIX):
        coded, _ = _untabled(coded)
    pattern = coded.kind.endswith("+pattern")
    own = tuple(coded.args[2]) if coded.kind == "fields+range" else shape
    numbers = _numbers(coded, [0, 1, *coded.args[0]] if pattern else coded.args[0])
    stream, codes = coded.streams[0 if pattern else -1], np.zeros(math.prod(own), np.int64)
    for positions, found in entropy.decode(stream, own, numbers):
        codes[positions] = found
    return Ranged(codes, own, numbers, len(stream))


def _kept(size: int, bits: np.ndarray | None) -> Iterator[tuple[slice, Any, int]]:
    """Yields of each piece where it is, which of its items are stored, and how many."""
    for begin, end in pieces.ranges(size):
        if bits is None:
            yield slice(begin, end), slice(None), end - begin
        else:
            kept = np.unpackbits(bits[begin // 8 : -(-end // 8)], count=end - begin).view(bool)
            yield slice(begin, end), kept, int(np.count_nonzero(kept))


def _place_items(flat: np.ndarray, bits: np.ndarray | None, count: int, stream: Any) -> None:
    # What is stored goes to the end of the tensor, and from there to its places, from the front: as many items as are
    # zeros are between the two, so that none is written over before it is read.
    at = flat.size - count
    expand_into(stream, flat[at:].view(np.uint8).reshape(count, flat.itemsize))
    if bits is None:
        return
    for where, kept, number in _kept(flat.size, bits):
        piece = np.zeros(where.stop - where.start, flat.dtype)
        piece[kept] = flat[at : at + number]
        flat[where] = piece
        at += number


def _place(flat: np.ndarray, bits: np.ndarray | None, stored: fields.Integers, made: lattice.Lattice | None) -> None:
    for where, kept, number in _kept(flat.size, bits):
        codes = stored.take(number)
        if made is None:
            flat[where][kept] = _narrowed(codes, flat.dtype)
            continue
        steps, values = made.values(codes, np.arange(where.start, where.stop)[kept], flat.dtype)
        if bits is not None:
            values[steps == 0] = -0.0
        flat[where][kept] = values
    stored.close()


def _place_ranged(
    flat: np.ndarray, stored: Iterator[tuple[np.ndarray, np.ndarray]], made: lattice.Lattice | None
) -> None:
    for positions, codes in stored:
        if made is None:
            flat[positions] = _narrowed(codes, flat.dtype)
        else:
            flat[positions] = made.values(codes, positions, flat.dtype)[1]


def _narrowed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers in their own dtype; those that would wrap there are refused. Those of uint64 are stored as int64."""
    if dtype.kind != "b" and not jax.dtypes.issubdtype(dtype, np.integer):
        raise ValueError(f"integers are no {dtype}")
    narrow = values.astype(dtype)
    if not (narrow.astype(np.int64) == values).all():
        raise ValueError(f"integers from {values.min()} to {values.max()} do not fit in {dtype}")
    return narrow
