"""Padding to common sizes, so that few programs serve numbers and matrices of any shape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcomp.core.types import Grid
from jaxcomp.quant.fake import fake_quantize
from jaxcomp.quant.formats import Format
from jaxcomp.quant.ranges import grid_between

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
    (found,) = _by_parts(functools.partial(_on_grid, format=format), (values, scale, zero_point))
    return found.astype(values.dtype, copy=False).reshape(values.shape)


def between(low: np.ndarray, high: np.ndarray, format: Format, idle: float) -> Grid:
    """Makes grids as :func:`jaxcomp.quant.grid_between` does, of the same numbers.

    Args:
      low, high: the ends, of one shape.
      format: of the codes.
      idle: how far the grid of nothing but zeros reaches.

    Example:
      >>> from jaxcomp.quant.formats import integer
      >>> between(np.float32([-1.27]), np.float32([0.5]), integer(8), 1.0).scale.round(4).tolist()
      [0.009999999776482582]
    """
    numbers = np.full(low.shape, idle, low.dtype)
    scale, zero_point = _by_parts(functools.partial(_between, format=format), (low, high, numbers))
    return Grid(*(jax.device_put(x.reshape(low.shape)) for x in (scale, zero_point)))


def _by_parts(run: Callable[..., Any], numbers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs a program of one of a few lengths on numbers, some after the others; flat."""
    flat = [np.ravel(x) for x in numbers]
    total = flat[0].size
    length, found = common(total, LENGTHS), []
    for first in range(0, max(total, 1), length):
        some = [x[first : first + length] for x in flat]
        some = [x if len(x) == length else np.append(x, np.ones(length - len(x), x.dtype)) for x in some]
        found.append([np.asarray(x)[: total - first] for x in jax.tree.leaves(run(*some))])
    return [np.concatenate(each) for each in zip(*found, strict=True)]


@functools.partial(jax.jit, static_argnames="format")
def _on_grid(values: Any, scale: Any, zero_point: Any, format: Format) -> Any:
    return fake_quantize(values, Grid(scale, zero_point), format)


@functools.partial(jax.jit, static_argnames="format")
def _between(low: Any, high: Any, idle: Any, format: Format) -> Any:
    return grid_between(low, high, format, idle)[:2]


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
