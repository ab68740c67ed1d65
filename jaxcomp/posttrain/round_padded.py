"""GPTQ of layers of any shape by few programs: padded to common sizes, some of the columns at a time."""

import functools
from typing import Any

import jax
import numpy as np

from jaxcomp.core.meshes import on_set_mesh
from jaxcomp.core.types import Grid
from jaxcomp.observe.factored import Factored
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import Format
from jaxcomp.quant.gptq import Choices, swept

BLOCK = 64
ROWS = (64, 256, 1024)
"""Sizes to which rows are padded; beyond the last, to multiples of it."""
COLUMNS = (8, 64, 256)
"""Sizes to which columns are padded; of more there are several such blocks."""
LEVELS = (16, 64, 256)
"""Sizes to which the numbers are padded that weights can become."""
TABLES = 32
"""Tables of code lengths, at least."""
LENGTHS = (2**12, 2**16, 2**20)
"""Likewise of what is rounded number by number."""


class Rounder:
    """Rounds the columns of one layer, ``[groups, n, ...]``."""

    def __init__(self, inputs: Factored, format: Format | None) -> None:
        self._inputs, self._format = inputs, format
        self._groups, self._size = inputs.moment.shape[:2]
        self._rows = common(self._size, ROWS)
        self._lines: dict[bool, Any] = {}

    def fix(
        self,
        weight: np.ndarray,
        scale: np.ndarray,
        zero_point: np.ndarray,
        kept: np.ndarray,
        choices: Choices | None = None,
    ) -> np.ndarray:
        """Row after row, those that follow making up for each (:func:`jaxcomp.quant.gptq.gptq`)."""
        order = self._inputs.order[..., None]
        given = [np.take_along_axis(x, order, 1) for x in (weight, scale, zero_point, kept)]
        if choices is not None:
            choices = choices._replace(which=np.take_along_axis(choices.which, order, 1))
        new = self._swept(given[0], np.zeros_like(weight), given[1:], 1, True, choices)
        return np.take_along_axis(new, np.argsort(order, 1), 1)

    def descend(
        self, weight: np.ndarray, start: np.ndarray, numbers: Any, sweeps: int, choices: Choices | None = None
    ) -> np.ndarray:
        """Code after code (:func:`jaxcomp.quant.gptq.descend`); numbers: scale, zero point, and what is kept."""
        slope = np.matmul(self._inputs.moment, start - weight)
        return self._swept(start, slope, numbers, sweeps, False, choices)

    def _swept(
        self, start: np.ndarray, slope: np.ndarray, numbers: Any, sweeps: int, fixes: bool, choices: Choices | None
    ) -> np.ndarray:
        lines, over = self._padded_lines(fixes)
        blocks, total = np.int32(-(-self._size // BLOCK)), start.shape[2]
        width = common(total, COLUMNS[-1:] if self._groups == 1 else COLUMNS, several=True)
        new = np.empty_like(start)
        for first in range(0, total, width):
            some = slice(first, min(first + width, total))
            values = [self._padded(x[..., some], width, i == 2) for i, x in enumerate((start, slope, *numbers))]
            given = *on_set_mesh(values[:2]), lines, over, tuple(on_set_mesh(values[2:]))
            own = None if choices is None else on_set_mesh(self._choices(choices, some, width))
            found = np.asarray(swept(*given, blocks, np.int32(sweeps), np.bool_(fixes), self._format, BLOCK, own))
            new[..., some] = found[: self._groups, : self._size, : some.stop - first]
        return new

    def _padded(self, x: np.ndarray, width: int, value: int) -> np.ndarray:
        found = np.full((_power(self._groups), self._rows, width), value, x.dtype)
        found[: self._groups, : self._size, : x.shape[2]] = x
        return found

    def _choices(self, given: Choices, some: slice, width: int) -> Choices:
        """What some of the columns can become, padded."""
        levels, bits = np.asarray(given.levels, np.float32), np.asarray(given.bits, np.float32)
        more = common(len(levels), LEVELS) - len(levels)
        tables = max(TABLES - len(bits), 0)
        which = self._padded(given.which[..., some].astype(np.int32), width, 0)
        price = np.zeros((len(which), 1, width), np.float32)
        price[: self._groups, :, : some.stop - some.start] = given.price[..., some]
        ends = (0, more)  # the last one again, which never is better than itself
        return Choices(np.pad(levels, ends, "edge"), np.pad(bits, ((0, tables), ends), "edge"), which, price)

    def _padded_lines(self, fixes: bool) -> tuple[jax.Array, jax.Array]:
        """The matrix that is swept and its diagonal; on the device, as it is read for every block of columns."""
        if fixes not in self._lines:
            own = self._inputs.upper if fixes else self._inputs.moment
            over = np.ones((_power(self._groups), self._rows, 1), np.float32)
            over[: self._groups, : self._size, 0] = np.diagonal(own, axis1=1, axis2=2)
            self._lines[fixes] = jax.device_put(on_set_mesh((self._padded(own, self._rows, 0), over)))
        return self._lines[fixes]


def on_grid(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, format: Format) -> np.ndarray:
    """Numbers rounded to the nearest, each with a scale and a zero point of its own."""
    parts = [np.ravel(x) for x in (values, scale, zero_point)]
    total = values.size
    length, found = common(total, LENGTHS, several=True), np.empty(total, values.dtype)
    for first in range(0, total, length):
        some = [x[first : first + length] for x in parts]
        some = [x if len(x) == length else np.append(x, np.ones(length - len(x), x.dtype)) for x in some]
        found[first : first + length] = np.asarray(_on_grid(*some, format))[: total - first]
    return found.reshape(values.shape)


@functools.partial(jax.jit, static_argnames="format")
def _on_grid(values: Any, scale: Any, zero_point: Any, format: Format) -> Any:
    return fake_quantize(values, Grid(scale, zero_point), format)


def common(size: int, sizes: tuple[int, ...], several: bool = False) -> int:
    """The size that one is padded to; ``several``: of one part of many that are as large as the largest."""
    last = sizes[-1]
    return next((each for each in sizes if size <= each), last if several else -(-size // last) * last)


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
