"""Padding to common sizes, so that few programs serve numbers and matrices of any shape."""

import functools
from typing import Any

import jax
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import Format

LENGTHS = (2**12, 2**16, 2**20)
"""Sizes to which what is rounded number by number is padded; of more there are several such parts."""


def on_grid(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, format: Format) -> np.ndarray:
    """Rounds numbers to the nearest on a grid, on the host.

    Args:
      values: ``[...]``.
      scale, zero_point: one for each of the values.
      format: of the codes.

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> on_grid(np.array([0.3, 9.0]), np.array([0.5, 0.5]), np.zeros(2), integer(3)).tolist()
      [0.5, 1.5]
    """
    parts = [np.ravel(x) for x in (values, scale, zero_point)]
    total = values.size
    length, found = common(total, LENGTHS), np.empty(total, values.dtype)
    for first in range(0, total, length):
        some = [x[first : first + length] for x in parts]
        some = [x if len(x) == length else np.append(x, np.ones(length - len(x), x.dtype)) for x in some]
        found[first : first + length] = np.asarray(_on_grid(*some, format))[: total - first]
    return found.reshape(values.shape)


@functools.partial(jax.jit, static_argnames="format")
def _on_grid(values: Any, scale: Any, zero_point: Any, format: Format) -> Any:
    return fake_quantize(values, Grid(scale, zero_point), format)


def common(size: int, sizes: tuple[int, ...]) -> int:
    """Returns the least of ``sizes`` that is not less than ``size``; the largest if all are less.

    Example:
      >>> common(3, (2, 4, 8)), common(9, (2, 4, 8))
      (4, 8)
    """
    return next((each for each in sizes if size <= each), sizes[-1])


def power(size: int) -> int:
    """Returns the least power of two that is not less than a size.

    Example:
      >>> power(3), power(4)
      (4, 4)
    """
    return 1 << max(size - 1, 0).bit_length()


def padded(x: np.ndarray, shape: tuple[int, ...], value: Any = 0) -> np.ndarray:
    """Pads ``x`` at the end of each axis with ``value`` up to ``shape``; a copy."""
    found = np.full(shape, value, x.dtype)
    found[tuple(map(slice, x.shape))] = x
    return found
