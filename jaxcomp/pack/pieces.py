"""Tensors in pieces: so that what coding takes beside a tensor is a few megabytes, and all cores have work."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from jaxcomp.core.types import Block
from jaxcomp.quant.granularity import grid_shape

PIECE = 1 << 17
"""Items that are looked at together."""

SAMPLE = 1 << 15
"""Items from which the form of a larger tensor is chosen."""

_WINDOWS = 4
T = TypeVar("T")
S = TypeVar("S")


def ranges(size: int) -> Iterator[tuple[int, int]]:
    """Yields the pieces of so many items, as ``(begin, end)``.

    Example:
      >>> list(ranges(PIECE + 5)) == [(0, PIECE), (PIECE, PIECE + 5)]
      True
    """
    return ((begin, min(begin + PIECE, size)) for begin in range(0, size, PIECE))


def sample(size: int, most: int = SAMPLE) -> np.ndarray:
    """Returns positions that stand for all of ``size``: every one, or windows over more than ``most``.

    Example:
      >>> sample(3).tolist(), sample(10**6).shape == (SAMPLE,)
      ([0, 1, 2], True)
    """
    if size <= most:
        return np.arange(size)
    width = most // _WINDOWS
    return np.concatenate([np.arange(width) + i * (size - width) // (_WINDOWS - 1) for i in range(_WINDOWS)])


def workers() -> ThreadPoolExecutor:
    """Starts threads to code pieces in: NumPy and zlib release Python's lock while they work."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "pack")


def in_order(pool: Executor, function: Callable[[S], T], items: Iterable[S], ahead: int = 8) -> Iterator[T]:
    """Maps a function over items in threads, and yields the results in order.

    Args:
      pool: of threads.
      function: of an item.
      items: any.
      ahead: items that are worked on at most before their results are taken.
    """
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def each(function: Callable[[tuple[int, int]], T], size: int) -> Iterator[T]:
    """Maps ``function`` over the pieces ``(begin, end)`` of ``size`` items, and yields the results in order.

    Example:
      >>> list(each(lambda piece: piece[1] - piece[0], PIECE + 5)) == [PIECE, 5]
      True
    """
    if size <= PIECE:
        yield from map(function, ranges(size))
        return
    with workers() as pool:
        yield from in_order(pool, function, ranges(size))


class Owners:
    """Which of a grid's numbers is that of a tensor's item: by position, so that nothing is spread over the tensor.

    Example:
      >>> Owners((2, 3), (1, 3), None)(np.arange(6)).tolist()
      [0, 1, 2, 0, 1, 2]
      >>> Owners((3, 2), (2, 2), Block(2, (1,)))(np.arange(6)).tolist()
      [0, 1, 0, 1, 2, 3]
    """

    def __init__(self, shape: tuple[int, ...], numbers: tuple[int, ...], block: Block | None):
        """Takes the shapes of the tensor and of the grid's numbers.

        Raises:
          ValueError: if the numbers are not those of a grid of the tensor.
        """
        if not fits(shape, numbers, block):
            raise ValueError(f"numbers of shape {numbers} are no grid of a tensor of shape {shape}")
        self.single = math.prod(numbers) <= 1
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        steps = [math.prod(numbers[axis + 1 :]) for axis in range(len(shape))]
        own = [axis for axis in range(len(shape)) if (axis in block.axes if block else numbers[axis] > 1)]
        self._own = [(strides[axis], shape[axis], steps[axis]) for axis in own if numbers[axis] > 1]
        self._cut: list[tuple[int, int, int]] = []
        self._size, self._step = 1, 0
        shared = [axis for axis in range(len(shape)) if axis not in own]
        if block and shared:
            lengths = [math.prod(shape[after] for after in shared if after > axis) for axis in shared]
            self._cut = [(strides[axis], shape[axis], n) for axis, n in zip(shared, lengths, strict=True)]
            self._size, self._step = max(1, block.size), steps[shared[-1]]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The index among a grid's numbers, of each position in the flat tensor."""
        index = np.zeros(positions.shape, np.int64)
        for stride, length, step in self._own:
            index += positions // stride % length * step
        if self._cut:
            place = sum(positions // stride % length * step for stride, length, step in self._cut)
            index += place // self._size * self._step
        return index


def fits(shape: tuple[int, ...], numbers: tuple[int, ...], block: Block | None) -> bool:
    """Returns whether a grid's ``numbers``, a shape, suit a tensor of ``shape``, cut into a ``block`` or not."""
    if len(numbers) != len(shape):
        return False
    if block is not None:
        return numbers == grid_shape(shape, block)
    return all(own in (1, whole) for own, whole in zip(numbers, shape, strict=True))
