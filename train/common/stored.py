"""Images on disk, indexed like an array and decoded by several threads when they are read; torn ones are told of."""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from train.common import pictures
from train.common.checks import warn
from train.common.errors import UserError, first_line

CHUNK = 16
"""Images that a thread decodes at once."""
SHOWN = 3
"""Torn images that are named as they are met; of further ones the count is told."""


class Reading(NamedTuple):
    """How images become arrays.

    Attributes:
      image_size: side of the squares that are made of them; None: as they are, all of one size.
      random_crop: the smallest share of an image's area that training is shown; 0: the square in the middle.
      corrupt: ``"stop"`` at a training image that cannot be decoded, or ``"skip"`` it. One to be scored always stops.
    """

    image_size: int | None = None
    random_crop: float = 0.0
    corrupt: str = "stop"


class Stored:
    """Images that are decoded when they are read: ``images[index]`` is ``[n, h, w, c]`` uint8.

    Args:
      fetch: numbers -> encoded images.
      names: number -> what an image is called in messages.
      count: how many there are.
      channels: 1 or 3.
      reading: how they become arrays.
      where: the split, for messages.

    Attributes:
      torn: the numbers of the images that could not be decoded so far.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[int]], Sequence[Any]],
        names: Callable[[int], str],
        count: int,
        channels: int,
        reading: Reading,
        where: str,
    ) -> None:
        self.fetch, self.names, self.count, self.channels = fetch, names, count, channels
        self.reading, self.where = reading, where
        self.torn: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array has it."""
        return (self.count, *self[:1].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """As an array has it."""
        return np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Squares, or whole images; one that is skipped is black.

        Raises:
          UserError: for one that cannot be decoded, and images of several sizes.
        """
        return self._read(np.arange(self.count)[index], lambda number, encoded: self._square(encoded))[0]

    def drawn(self, numbers: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Random parts of images, which belong to the seed, the epoch and the number; squares where none are asked.

        Args:
          numbers: of images; ``number + n * len(self)`` is another part of the same.
          seed, epoch: of the draws.

        Returns:
          ``[n, h, w, c]`` uint8, and ``[n]`` float32: 0 for one that is skipped, which is black.

        Raises:
          UserError: as indexing.
        """
        size, least = self.reading.image_size, self.reading.random_crop
        if not least or size is None:
            return self._read(numbers, lambda number, encoded: self._square(encoded))

        def part(number: int, encoded: Any) -> np.ndarray:
            rng = np.random.default_rng([seed, 2, epoch, number])
            return pictures.part(encoded, self.channels, size, least, rng)

        return self._read(numbers, part)

    def _square(self, encoded: Any) -> np.ndarray:
        return pictures.square(encoded, self.channels, self.reading.image_size)

    def _read(self, numbers: np.ndarray, how: Callable[[int, Any], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        chunks = [numbers[at : at + CHUNK].tolist() for at in range(0, len(numbers), CHUNK)]
        images = [image for chunk in _workers().map(functools.partial(self._chunk, how), chunks) for image in chunk]
        shapes = {image.shape for image in images if image is not None}
        if len(shapes) > 1:
            raise several_sizes(self.where, shapes)
        blank = np.zeros(next(iter(shapes), None) or self._blank, np.uint8)
        sound = np.array([image is not None for image in images], np.float32)
        read = [blank if image is None else image for image in images]
        return np.stack(read) if read else np.zeros((0, *blank.shape), np.uint8), sound

    @functools.cached_property
    def _blank(self) -> tuple[int, ...]:
        """The shape of an image that is skipped: of the first that can be decoded, where none is given."""
        size = self.reading.image_size
        if size is not None:
            return size, size, self.channels
        read = (self._one(lambda _, encoded: self._square(encoded), n, *self.fetch([n])) for n in range(self.count))
        return next((image.shape for image in read if image is not None), (1, 1, self.channels))

    def _chunk(self, how: Callable[[int, Any], np.ndarray], numbers: list[int]) -> list[np.ndarray | None]:
        fetched = self.fetch([number % self.count for number in numbers])
        return [self._one(how, *pair) for pair in zip(numbers, fetched, strict=True)]

    def _one(self, how: Callable[[int, Any], np.ndarray], number: int, encoded: Any) -> np.ndarray | None:
        try:
            return how(number, encoded)
        except Exception as error:  # whatever the decoder says
            number %= self.count
            told = f"{self.names(number)} cannot be read ({first_line(error)})"
            if self.reading.corrupt != "skip":
                raise UserError(
                    f"{self.where}: {told}: mend it or leave it out; --config.corrupt=skip leaves out of training what "
                    "cannot be decoded"
                ) from error
        with self._lock:
            new = number not in self.torn
            self.torn.add(number)
            if new and len(self.torn) <= SHOWN:
                warn(f"{self.where}: {told} and is left out")
        return None


def in_memory(images: Stored, labels: np.ndarray, limit: int) -> tuple[Any, np.ndarray]:
    """The images decoded, with their labels, if they take no more bytes than the limit; else as they are.

    Images that are skipped are left out of both.
    """
    if not len(labels) or images.reading.random_crop or len(labels) * images[:1].nbytes > limit:
        return images, labels
    read = [images.drawn(np.arange(at, min(at + 1024, len(labels))), 0, 0) for at in range(0, len(labels), 1024)]
    if images.torn:
        warn(f"{images.where}: {len(images.torn):,} of {len(labels):,} images cannot be decoded and are left out")
    sound = np.concatenate([own for _, own in read]) > 0
    pixels = np.concatenate([own for own, _ in read])
    return (pixels, labels) if sound.all() else (pixels[sound], labels[sound])


@functools.cache
def _workers() -> ThreadPoolExecutor:
    """A thread for each core that this process may use: decoders hold no lock of Python's."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def several_sizes(where: str, shapes: set[Any]) -> UserError:
    """The error of images that have to be resized."""
    first, last = sorted(shapes)[0], sorted(shapes)[-1]
    return UserError(
        f"{where} has images of several sizes ({first}, {last}, ...): name one to which all are brought, with "
        "--config.image_size=224"
    )
