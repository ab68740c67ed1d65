r"""Rows of a header, one a tensor, in few bytes: numbers of a byte where JSON has a text of them.

A value is one byte and what it announces: ``0-127`` the whole number 32 less, ``128-159`` a list of so many values,
``160-190`` one of WORDS, then a number of any size, a text, a value as JSON. Of a tensor that is coded as most are, on
a grid of one scale, the numbers stand alone.
"""

import json
from typing import Any

WORDS = (
    *("codes+range", "ints+range", "fields+range", "codes+pattern", "plain+pattern", "codes", "codes+mask"),
    *("codes+gaps", "ints", "plain", "plain+mask", "plain+gaps", "table:ints+range", "table:ints", "float32"),
    *("bfloat16", "float16", "float64", "int8", "int16", "int32", "uint8", "bool", "kernel", "bias", "scale", "params"),
)
"""Texts that have a number: the order is part of the format."""

USUAL = {191: ("codes+range", 3), 195: ("codes", 2)}
"""Numbers that begin a float32 tensor of this kind, and how many it has beside the size of its stream."""
_LEAST, _LISTS, _WORDS = -32, 128, 160
_NUMBER, _TEXT, _JSON = 192, 193, 194
_OWN_PLACE = 0
"""In place of the keys of a leaf of a sequence, where no other leaf came before its predecessors."""
_SCALE = 3
"""Bytes of the stream of a scale in bfloat16."""


def write(rows: list[list[Any]]) -> bytes:
    """Writes rows ``[keys, shape, dtype, kind, args, bytes of each stream]``, or any JSON-able lists, to bytes.

    Example:
      >>> rows = [[[[0]], [28, 6], "float32", "codes+range", [[-3, 3, 12], []], [3, 90]]]
      >>> len(write(rows)), read(write(rows)) == rows
      (10, True)
    """
    out = bytearray(varint(len(rows)))
    for number, row in enumerate(rows):
        tag, usual = _usual(row)
        if tag is None:
            _put(out, row)
            continue
        out.append(tag)
        _put(out, _OWN_PLACE if row[0] == [[number]] else row[0])
        for value in (row[1], *usual):
            _put(out, value)
    return bytes(out)


def _usual(row: list[Any]) -> tuple[int | None, list[int]]:
    """The tag and the numbers of a tensor that is coded as most are; None for others."""
    for tag, (kind, count) in USUAL.items():
        if len(row) == 6 and row[2] == "float32" and row[3] == kind and type(row[4]) is list and len(row[4]) == 2:
            (numbers, axes), sizes = row[4], row[5]
            lists = all(type(each) is list for each in (numbers, axes, sizes))
            if lists and axes == [] and len(numbers) == count and len(sizes) == 2 and sizes[0] == _SCALE:
                return tag, [*numbers, sizes[1]]
    return None, []


def read(raw: bytes) -> list[list[Any]]:
    """Reads the rows of :func:`write`.

    Raises:
      ValueError: for bytes that it does not write, and IndexError where they end too early.
    """
    at = Reader(raw)
    rows = []
    for number in range(at.varint()):
        usual = USUAL.get(raw[at.place])
        if usual is None:
            rows.append(at.value())
            continue
        at.place += 1
        (kind, count), keys, shape = usual, at.value(), at.value()
        *numbers, size = (at.value() for _ in range(count + 1))
        rows.append([[[number]] if keys == _OWN_PLACE else keys, shape, "float32", kind, [numbers, []], [_SCALE, size]])
    if at.place != len(raw):
        raise ValueError(f"{len(raw) - at.place} bytes follow the rows")
    return rows


def _put(out: bytearray, value: Any) -> None:
    if type(value) is int and 0 <= value - _LEAST < _LISTS:
        out.append(value - _LEAST)
    elif type(value) is int and -(2**63) <= value < 2**63:
        out.append(_NUMBER)
        out += varint(2 * value if value >= 0 else -2 * value - 1)
    elif type(value) in (list, tuple) and len(value) < _WORDS - _LISTS:
        out.append(_LISTS + len(value))
        for each in value:
            _put(out, each)
    elif type(value) is str and value in WORDS:
        out.append(_WORDS + WORDS.index(value))
    else:
        text = (value if type(value) is str else json.dumps(value, separators=(",", ":"))).encode(
            "utf-8", "surrogatepass"
        )
        out.append(_TEXT if type(value) is str else _JSON)
        out += varint(len(text)) + text


def varint(number: int) -> bytes:
    """Writes a number of any size: seven bits a byte, the low ones first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Reader:
    """Reads values one after the other.

    Attributes:
      place: where the next one begins.
    """

    def __init__(self, raw: Any, place: int = 0):
        """Takes bytes, and where to begin."""
        self.raw, self.place = raw, place

    def varint(self) -> int:
        """Reads the next number, of 64 bits at most.

        Raises:
          ValueError: for a larger one.
        """
        number = 0
        for shift in range(0, 70, 7):
            byte = self.raw[self.place]
            self.place += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number goes beyond 64 bits")

    def value(self) -> Any:
        """Reads the next value.

        Raises:
          ValueError: for bytes that begin none.
        """
        tag = self.raw[self.place]
        self.place += 1
        if tag < _LISTS:
            return tag + _LEAST
        if tag < _WORDS:
            return [self.value() for _ in range(tag - _LISTS)]
        if tag - _WORDS < len(WORDS):
            return WORDS[tag - _WORDS]
        if tag == _NUMBER:
            number = self.varint()
            return -((number + 1) >> 1) if number & 1 else number >> 1
        if tag not in (_TEXT, _JSON):
            raise ValueError(f"no value begins with the byte {tag}")
        size = self.varint()
        text = self.raw[self.place : self.place + size].decode("utf-8", "surrogatepass")
        self.place += size
        if self.place > len(self.raw):
            raise ValueError("a text ends beyond the header")
        return text if tag == _TEXT else json.loads(text)
