"""Tensors of few values, whatever these are: a table of them, and for each item its place in the table."""

from typing import NamedTuple

import numpy as np

from jaxcomp.pack import pieces
from jaxcomp.pack.lattice import is_real
from jaxcomp.pack.streams import expand_into, squeeze

MOST = 256
"""Values of a table."""
PREFIX = "table:"
"""Before the kind in which the places are coded."""


class Palette(NamedTuple):
    """A tensor as places in a table.

    Attributes:
      table: ``[n]``, the values, in order.
      origin: the place of the value 0, from which places are counted.
      places: ``[...]`` int8 or int16, less the origin.
    """

    table: np.ndarray
    origin: int
    places: np.ndarray

    @property
    def stream(self) -> bytes:
        """The table's."""
        return squeeze(self.table.tobytes(), self.table.itemsize)


def of(array: np.ndarray) -> Palette | None:
    """Codes a floating-point tensor as places in a table; None where it has more than 256 values, or hardly any repeat.

    Example:
      >>> found = of(np.tile(np.float32([0.5, 0.0, -2.0, 0.5]), 40))
      >>> found.table.tolist(), found.places[:4].tolist()
      ([-2.0, 0.0, 0.5], [1, 0, -1, 1])
    """
    if not is_real(array) or array.itemsize > 8:
        return None
    flat = array.reshape(-1)
    words, most = flat.view(f"u{flat.itemsize}"), min(MOST, flat.size // 8)
    if np.unique(words[: 16 * MOST]).size > most:  # a glance tells most tensors
        return None
    held = np.unique(words[pieces.sample(words.size)])
    for piece in pieces.ranges(words.size):
        if len(held) > most:
            return None
        held = np.union1d(held, words[slice(*piece)])
    if len(held) > most:
        return None
    values = held.view(flat.dtype)
    order = np.argsort(values.astype(np.float64), kind="stable")
    origin = int(np.searchsorted(values[order].astype(np.float64), 0.0))
    place = np.empty(len(held), np.int64)
    place[order] = np.arange(len(held)) - min(origin, len(held) - 1)
    small = np.int8 if len(held) <= 128 else np.int16
    places = np.empty(flat.size, small)
    for begin, end in pieces.ranges(words.size):
        places[begin:end] = place[np.searchsorted(held, words[begin:end])]
    return Palette(values[order], min(origin, len(held) - 1), places.reshape(array.shape))


def table_of(count: int, stream: object, dtype: np.dtype) -> np.ndarray:
    """Reads the values of a table.

    Args:
      count: of values.
      stream: of them.
      dtype: of the tensor.

    Raises:
      ValueError: for a table that :func:`of` does not make.
    """
    if type(count) is not int or not 1 <= count <= MOST:
        raise ValueError(f"a table has 1 to {MOST} values, not {count!r}")
    table = np.zeros(count, dtype)
    expand_into(stream, table.view(np.uint8).reshape(count, table.itemsize))
    return table


def shown(places: np.ndarray, origin: int, table: np.ndarray) -> np.ndarray:
    """Looks places up in a table.

    Args:
      places: ``[n]``, counted from ``origin``.
      origin: the index of place 0 in the table.
      table: ``[values]``.

    Raises:
      ValueError: for a place that the table has not.

    Example:
      >>> shown(np.array([-1, 0, 1], np.int8), 1, np.float32([-2.0, 0.0, 0.5])).tolist()
      [-2.0, 0.0, 0.5]
    """
    if type(origin) is not int or not 0 <= origin < len(table):
        raise ValueError(f"places are counted from one of {len(table)} values, not from {origin!r}")
    if places.size and not -origin <= places.min() <= places.max() < len(table) - origin:
        raise ValueError(f"places in a table of {len(table)} values go beyond it")
    return table[places.astype(np.int64) + origin]
