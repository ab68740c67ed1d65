"""Images and labels: scikit-learn's embedded digits, or a set of TensorFlow Datasets; splits, and batches of them."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from train.common import image_folder, mirror, records
from train.common.checks import usable
from train.common.errors import UserError
from train.common.stored import Reading, Stored
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Task

EVAL_BATCH, EVAL_PIXELS = 500, 2**21
"""Images that are scored at once, and pixels: at most."""
DISK_MOMENTS = 512
"""Images on disk whose pixels say what all are normalized by."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[n, height, width, channels]`` uint8, in memory or on disk, and labels ``[n, ...]`` of a task's kind.

    Attributes:
      stored: SHA-256 of the records that they were read from, if they come from disk.
    """

    images: Any
    labels: np.ndarray
    stored: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all images and labels, by which a set that was replaced is known."""
        if self.stored:
            return self.stored
        total = hashlib.sha256(f"{np.shape(self.images)}".encode())
        total.update(np.ascontiguousarray(self.images[:]).data)
        total.update(np.ascontiguousarray(self.labels).data)
        return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split with the same classes, each read when it is first asked for.

    Attributes:
      name: as given on the command line.
      classes: number of labels.
      read: ``"train"`` or ``"test"`` -> the split.
      task: what labels are.
    """

    name: str
    classes: int
    read: Callable[[str], Split]
    task: Task = CLASSIFICATION

    @functools.cached_property
    def train(self) -> Split:
        """The images that models learn from.

        Raises:
          UserError: if it cannot be read, a label cannot be, or nothing can be learned from it.
        """
        return usable(self.name, "train", self.read("train"), self.classes, self.task, learned=True)

    @functools.cached_property
    def test(self) -> Split:
        """The images that they are scored on.

        Raises:
          UserError: if it cannot be read, or a label cannot be.
        """
        return usable(self.name, "test", self.read("test"), self.classes, self.task)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of both splits."""
        return hashlib.sha256(f"{self.classes} {self.train.digest} {self.test.digest}".encode()).hexdigest()

    def read_all(self) -> "Dataset":
        """Reads both splits now, so that what is wrong with them is told before anything is computed; returns itself.

        Raises:
          UserError: if they cannot be used, or are not of images of one kind.
        """
        train, test = (split.images[:1].shape[1:] for split in (self.train, self.test))
        if train != test:
            raise UserError(f"dataset {self.name!r} has images of {train} for training and of {test} for testing")
        return self

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the training pixels in [0, 1], per channel.

        Of the first 32,768 images; of a split on disk, of 512 all over it.
        """
        return self._moments

    @functools.cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        images, count = self.train.images, len(self.train)
        if isinstance(images, Stored):
            images = images[np.unique(np.linspace(0, count - 1, DISK_MOMENTS).astype(int))]
        images = images[: 2**15]
        pixels = images.reshape(-1, images.shape[-1])
        mean, std = pixels.mean(axis=0) / 255, pixels.std(axis=0) / 255
        return tuple(map(float, mean)), tuple(float(max(s, 1e-3)) for s in std)


def load(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    task: Task = CLASSIFICATION,
    *,
    random_crop: float = 0.0,
    corrupt: str = "stop",
) -> Dataset:
    """Opens a data set. A split is held in memory or, of class labels and above 4 GiB, read from disk batch by batch.

    Args:
      name: ``"digits"`` (embedded, no download), a TFDS name such as ``"mnist"`` or ``"cifar10:3.0.2"``, or a folder,
        which begins with ``/``, ``./``, ``../`` or ``~``, or is in a bucket: ``gs://bucket/birds``
        (:mod:`train.common.image_folder`).
      data_dir: folder of prepared TFDS data; None: the environment's TFDS_DATA_DIR, or TFDS's own default.
      image_size: side of the images that the task makes of those that there are; None: as they are, of one size.
      task: what images are asked.
      random_crop: the smallest share of an image's area that training is shown, each time another part of it, resized;
        0: the square in the middle.
      corrupt: ``"stop"`` at a training image that cannot be decoded, or ``"skip"`` it.

    Returns:
      The data set.

    Raises:
      UserError: for a set that is unknown, not prepared, not whole, or has no such labels as the task needs; on
        reading, for records that cannot be read, labels that cannot be, and images of several sizes.
    """
    if name == "digits":
        if random_crop:
            raise UserError("--config.random_crop is of images that are decoded; of digits, give an augment")
        return Dataset(name, task.embedded("test")[2], lambda split: Split(*task.embedded(split)[:2]), task)
    if random_crop and not (image_size and task.whole):
        raise UserError("--config.random_crop is of classified images, and needs a --config.image_size such as 224")
    reading, place = Reading(image_size, random_crop, corrupt), mirror.copied(name)
    if not image_folder.is_path(place):
        found = records.open_tfds(name, mirror.data_folder(data_dir, records.plain(name)), reading, task)
        return Dataset(name, found.classes, lambda split: Split(*found.read(split)), task)
    if not task.whole:
        raise UserError(f"dataset {name!r}: a folder has a class for each image, and {task.name} needs {task.needs}")
    classes, read = image_folder.open_folder(place, reading, records.MEMORY_LIMIT)
    return Dataset(name, classes, lambda split: Split(*read(split)), task)


def train_batch(
    split: Split,
    step: int,
    batch_size: int,
    seed: int,
    *,
    shift: int,
    flip: bool,
    repeats: int = 1,
    rows: slice = slice(None),
) -> dict[str, np.ndarray]:
    """The batch of a step: a pure function of the seed and the step, so that a resumed run sees the same images.

    Every epoch is a fresh permutation, cut into whole batches. Images are moved by up to ``shift`` pixels, with
    black filling in, and mirrored at random if ``flip``: on the host and by the step, as all published figures were
    made. ``pad_crop`` and ``flip`` of ``jc.augment`` move them alike by image, so that a view can be shown again.

    Args:
      split: what is learned.
      step: from 0.
      batch_size: images in a step, over all hosts.
      seed: of order and augmentation.
      shift: pixels.
      flip: whether images are mirrored.
      repeats: views of each image in a batch, of as many fewer images; an epoch has as many steps.
      rows: those of the batch that are read: each host reads its own, and all make one batch together.

    Returns:
      ``image [rows, h, w, c]`` uint8, ``label [rows, ...]``, ``index [rows]`` int32, the images' numbers in the split
      (plus its length for each view before, where there are several), and where images were skipped that cannot be
      decoded, ``valid [rows]`` float32, which is 0 for them.

    Reference: Hoffer et al., Augment your batch: Improving generalization through instance repetition, 2020.
    """
    batch_size = min(batch_size, len(split))
    epoch, position = divmod(step, len(split) // batch_size)
    different = -(-batch_size // repeats)
    chosen = _order(len(split), seed, epoch)[position * different : (position + 1) * different]
    seen = (np.arange(repeats)[:, None] * len(split) + chosen).ravel()[:batch_size][rows]
    own = seen % len(split)
    stored = isinstance(split.images, Stored)
    images, sound = split.images.drawn(seen, seed, epoch) if stored else (split.images[own], np.ones(1))
    images = _augment(images, np.random.default_rng([seed, 1, step]), shift, flip, batch_size, rows)
    batch = {"image": images, "label": split.labels[own], "index": seen.astype(np.int32)}
    return batch if sound.all() else batch | {"valid": sound}


@functools.lru_cache(2)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch; of a million a permutation takes as long as a step."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _augment(
    images: np.ndarray, rng: np.random.Generator, shift: int, flip: bool, count: int, rows: slice
) -> np.ndarray:
    """Moves the rows of a batch of so many images, each as it would be in the whole batch."""
    _, height, width, _ = images.shape
    offsets = rng.integers(0, 2 * shift + 1, size=(count, 2))[rows]
    mirrored = ((rng.random((count, 1, 1, 1)) < 0.5) & flip)[rows]
    if not shift or not len(images):
        return np.where(mirrored, images[:, :, ::-1], images) if flip else images
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    moved = np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)])
    return np.where(mirrored, moved[:, :, ::-1], moved)


def eval_size(split: Split) -> int:
    """How many images of a split are scored at once."""
    height, width = split.images[:1].shape[1:3]
    return max(1, min(EVAL_BATCH, EVAL_PIXELS // (height * width), len(split)))


def eval_batches(split: Split, batch_size: int = EVAL_BATCH) -> Iterator[dict[str, np.ndarray]]:
    """The split in order, in batches of one size but for the last."""
    for start in range(0, len(split), batch_size):
        yield {"image": split.images[start : start + batch_size], "label": split.labels[start : start + batch_size]}


def pad(batch: dict[str, np.ndarray], multiple: int) -> dict[str, np.ndarray]:
    """Pads a batch to a multiple of the device count; ``valid [batch]`` float32 is 0 for what was added."""
    n = len(batch["label"])
    return fill(batch, n + -n % multiple)


def fill(batch: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Pads a batch to so many examples; ``valid [count]`` float32 is 0 for what was added."""
    whole = {"valid": np.ones(len(batch["label"]), np.float32), **batch}
    missing = count - len(whole["valid"])
    return {key: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) for key, x in whole.items()}
