"""Tensors as streams and back: plain, as integers, or as codes on a grid; whole, or without their zeros."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.pack import fields, lattice, pieces
from jaxcomp.pack.regrid import regrid
from jaxcomp.pack.streams import Squeezer, expand_into, squeeze

_KINDS = {f"{kind}{where}" for kind in ("plain", "ints", "codes") for where in ("", "+mask", "+gaps")}
_NUMPY = {np.dtype(code).name: np.dtype(code) for code in "?bhiqBHIQefdFD"}


class Coded(NamedTuple):
    """A tensor as streams.

    Attributes:
      kind: ``plain``, ``ints`` or ``codes``, with ``+mask`` or ``+gaps`` where zeros are left out.
      args: JSON numbers that the kind needs.
      streams: the positions (where zeros are left out), then what the kind holds.
      off_grid: True where a grid was given and the values lie on none of its kind, bit for bit.
    """

    kind: str
    args: list[Any]
    streams: list[Any]
    off_grid: bool = False


class _Form(NamedTuple):
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


def dtype_named(name: str) -> np.dtype:
    """The dtype of that name among those that JAX knows; a ValueError for any other."""
    if not isinstance(name, str):
        raise ValueError(f"a dtype is called by its name, not {name!r}")
    if name in _NUMPY:
        return _NUMPY[name]
    found = getattr(ml_dtypes, name, None)
    if isinstance(found, type) and issubclass(found, np.generic):
        return np.dtype(found)
    raise ValueError(f"no array of JAX has the dtype {name!r}")


def encode(array: np.ndarray, grid: Grid | None = None, format: str | None = None) -> Coded:
    """Codes a tensor in the smallest form that gives back its very bits.

    With a grid, the codes of the levels nearest to ``array / scale``, kept only if ``level * scale``, in float32
    (float64 for float64) and cast to the tensor's dtype, is the tensor again. Of values that lie on another grid of the
    same granularity and format, that one is found. A large tensor has the form that is smallest for a sample of it.

    Args:
      array: ``[...]``, of a dtype that JAX knows.
      grid: scale and zero point that broadcast against it, in blocks or not; or None.
      format: the name of the codes' format; None: integers.

    Returns:
      The tensor as streams.

    Example:
      >>> import numpy as np
      >>> from jaxcomp.core.types import Grid
      >>> encode(np.arange(-8, 8, 0.5), Grid(np.float32([0.5]), np.int32([0]))).kind
      'codes'
      >>> encode(np.eye(64, dtype=np.float32)).kind
      'plain+gaps'
    """
    array = np.asarray(array, order="C")  # one after the other in memory: their bits are looked at
    flat = array.reshape(-1)
    found = None if grid is None else _found(array, grid, format)
    forms = _forms(flat, found, array.ndim)
    where = pieces.sample(flat.size)
    tried = [_tried(flat, form, where) for form in forms]
    best = min(range(len(forms)), key=lambda i: sum(len(stream) + 3 for stream in tried[i]))
    streams = tried[best] if where.size == flat.size else _in_pieces(flat, forms[best], tried[best])
    off_grid = grid is not None and found is None and array.size > 0
    return Coded(forms[best].name, forms[best].args, streams, off_grid)


class _Facts(NamedTuple):
    """What decides which forms a tensor can have.

    Attributes:
      zeros: whether some items are +0.0, of all-zero bits.
      negative: whether some are -0.0.
      every: what its integers or codes span; None: it has none.
      kept: likewise, without those of +0.0.
    """

    zeros: bool
    negative: bool
    every: fields.Span | None
    kept: fields.Span | None

    def joined(self, other: "_Facts") -> "_Facts":
        every, kept = (
            a.joined(b) if a and b else a or b for a, b in ((self.every, other.every), (self.kept, other.kept))
        )
        return _Facts(self.zeros or other.zeros, self.negative or other.negative, every, kept)


class _Found(NamedTuple):
    lattice: lattice.Lattice
    grid: Grid
    facts: _Facts


def _found(array: np.ndarray, grid: Grid, format: str | None) -> _Found | None:
    """The grid that the values lie on: the one that was told, or another of the same granularity and format."""
    first = _checked(array, grid, format)
    scale = np.asarray(grid.scale)
    placed = (1,) * (array.ndim - scale.ndim) + scale.shape
    if first is not None or not lattice.is_real(array) or not pieces.fits(array.shape, placed, grid.block):
        return first
    other = regrid(array, grid, format, lattice.working_dtype(array.dtype))
    return None if other is None else _checked(array, other, format)


def _checked(array: np.ndarray, grid: Grid, format: str | None) -> _Found | None:
    made, flat = lattice.lattice_of(array, grid, format), array.reshape(-1)
    if made is None:
        return None
    sampled = pieces.sample(flat.size)
    if made.steps(flat[sampled], sampled) is None:
        return None

    def facts(piece: tuple[int, int]) -> _Facts | None:
        positions = np.arange(*piece)
        steps = made.steps(flat[slice(*piece)], positions)
        if steps is None:
            return None
        stored, codes = _set_bits(flat[slice(*piece)]), made.codes(steps, positions)
        negative = bool((stored & (steps == 0)).any())
        return _Facts(not stored.all(), negative, fields.span(codes), fields.span(codes[stored]))

    whole = _whole(flat.size, facts)
    return None if whole is None else _Found(made, grid, whole)


def _whole(size: int, facts: Callable[[tuple[int, int]], _Facts | None]) -> _Facts | None:
    """The facts of a tensor from those of its pieces."""
    whole = _Facts(False, False, None, None)
    for one in pieces.each(facts, size):
        if one is None:
            return None
        whole = whole.joined(one)
    return whole


def _forms(flat: np.ndarray, found: _Found | None, ndim: int) -> list[_Form]:
    """The forms that give back a tensor's bits."""
    forms = []
    integers = flat.dtype == bool or jax.dtypes.issubdtype(flat.dtype, np.integer)

    def facts(piece: tuple[int, int]) -> _Facts:
        values = flat[slice(*piece)]
        stored = _set_bits(values)
        spans = [fields.span(own.astype(np.int64)) if integers else None for own in (values, values[stored])]
        return _Facts(not stored.all(), False, *spans)

    own = found.facts if found else _whole(flat.size, facts) or _Facts(False, False, None, None)
    args, before = lattice.described(found.lattice, found.grid, ndim) if found else ([], [])

    def codes(positions: np.ndarray) -> np.ndarray:
        assert found is not None
        steps = found.lattice.steps(flat[positions], positions)
        assert steps is not None  # they were checked
        return found.lattice.codes(steps, positions)

    for where in ("", "mask", "gaps") if own.zeros else ("",):
        forms.append(_Form("plain", where, [], [], flat.itemsize, flat.__getitem__, _bytes_of))
        held = own.kept if where else own.every
        if integers:
            forms += _packed("ints", where, [], [], held, lambda positions: flat[positions].astype(np.int64))
        # No code stands for -0.0 in a whole tensor; where +0.0 is left out, a stored 0 can be nothing else.
        elif found is not None and (where or not own.negative):
            forms += _packed("codes", where, args, before, held, codes)
    return forms


def _packed(
    kind: str,
    where: str,
    args: list[Any],
    before: list[Any],
    held: fields.Span | None,
    values: Callable[[np.ndarray], np.ndarray],
) -> list[_Form]:
    def narrow(positions: np.ndarray, way: list[int]) -> np.ndarray:
        return fields.narrowed(values(positions), way)

    made = []
    for way in fields.packings(held):
        both = functools.partial(narrow, way=way), functools.partial(fields.laid, packing=way)
        made.append(_Form(kind, where, [way, *args], before, fields.itemsize(way), *both))
    return made


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1).view(np.uint8)


def _set_bits(flat: np.ndarray) -> np.ndarray:
    """True where an item is anything but all-zero bits: -0.0 and NaN are stored, +0.0 is not."""
    word = math.gcd(flat.itemsize, 8)
    words = flat.view(f"u{word}")
    return words != 0 if word == flat.itemsize else np.any(words.reshape(flat.size, -1), axis=1)


def _tried(flat: np.ndarray, form: _Form, where: np.ndarray) -> list[Any]:
    """The streams of a tensor at some positions, as if these were all."""
    positions, streams = where, []
    if form.where:
        stored = _set_bits(flat[where])
        positions = where[stored]
        packed = fields.bits_of(stored) if form.where == "mask" else fields.Gaps()(stored)
        streams.append(squeeze(packed.tobytes()))
    values = form.convert(form.values(positions))
    return [*streams, *form.before, squeeze(values.tobytes(), form.itemsize)]


def _in_pieces(flat: np.ndarray, form: _Form, tried: list[Any]) -> list[Any]:
    """The streams of a large tensor, in the form, and each in the way, that was best for a sample."""

    def prepared(piece: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(*piece)
        stored = _set_bits(flat[slice(*piece)]) if form.where else np.ones(0, bool)
        return stored, form.values(positions[stored] if form.where else positions)

    with pieces.workers() as pool:
        values = Squeezer(pool, bytes(tried[-1][:1]), form.itemsize, form.convert)
        convert = fields.bits_of if form.where == "mask" else np.asarray
        places = Squeezer(pool, bytes(tried[0][:1]), 1, convert)
        gaps = fields.Gaps()
        for stored, chosen in pieces.in_order(pool, prepared, pieces.ranges(flat.size)):
            if form.where:
                places.feed(gaps(stored) if form.where == "gaps" else stored)
            values.feed(chosen)
        return [*([places.finish()] if form.where else []), *form.before, values.finish()]


def decode(coded: Coded, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The tensor that :func:`encode` was given.

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
    if coded.kind not in _KINDS:
        raise ValueError(f"no kind is called {coded.kind!r}: the file may be of a newer jaxcomp")
    kind, _, where = coded.kind.partition("+")
    size, rest, bits = math.prod(shape), coded.streams, None
    flat, count = np.zeros(size, dtype), size
    if where:
        bits, count = fields.unpack_mask(where, rest[0], size)
        rest = rest[1:]
    match kind:
        case "plain":
            (stream,), () = rest, coded.args
            _place_items(flat, bits, count, stream)
        case "ints":
            (stream,), (packing,) = rest, coded.args
            _place_integers(flat, bits, fields.Integers(packing, stream, count))
        case "codes":
            packing, *args = coded.args
            made = lattice.again(args, rest[:-1], shape, dtype)
            _place_codes(flat, bits, fields.Integers(packing, rest[-1], count), made)
    return flat.reshape(shape)


def _kept(size: int, bits: np.ndarray | None) -> Iterator[tuple[slice, Any, int]]:
    """Of each piece: where it is, which of its items are stored, and how many."""
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


def _place_integers(flat: np.ndarray, bits: np.ndarray | None, stored: fields.Integers) -> None:
    for where, kept, number in _kept(flat.size, bits):
        flat[where][kept] = _narrowed(stored.take(number), flat.dtype)
    stored.close()


def _narrowed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers in their own dtype; those that would wrap there are refused. Those of uint64 are stored as int64."""
    if dtype.kind != "b" and not jax.dtypes.issubdtype(dtype, np.integer):
        raise ValueError(f"integers are no {dtype}")
    narrow = values.astype(dtype)
    if not (narrow.astype(np.int64) == values).all():
        raise ValueError(f"integers from {values.min()} to {values.max()} do not fit in {dtype}")
    return narrow


def _place_codes(flat: np.ndarray, bits: np.ndarray | None, stored: fields.Integers, made: lattice.Lattice) -> None:
    for where, kept, number in _kept(flat.size, bits):
        positions = np.arange(where.start, where.stop)[kept]
        steps, values = made.values(stored.take(number), positions, flat.dtype)
        if bits is not None:
            values[steps == 0] = -0.0
        flat[where][kept] = values
    stored.close()
