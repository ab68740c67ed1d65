"""Checks of images and labels, for training and scoring: told before anything is computed."""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from train.common.errors import UserError, first_line

FEW = 10  # training images a class, below which what is learned says little
ANEW = "prepare it anew, with tfds build --overwrite, or copy its folder again"
T = TypeVar("T")


def usable(name: str, split: str, found: Any, classes: int, task: Any, learned: bool = False) -> Any:
    """A split, if models can use it.

    Args:
      name: of the data set.
      split: ``"train"`` or ``"test"``.
      found: its ``images`` and ``labels``.
      classes: labels go from 0 to one less.
      task: a :class:`train.tasks.task.Task`, which knows what labels must be.
      learned: whether it is to be learned from: of one that teaches little a warning says so.

    Raises:
      UserError: if it is empty, its images are not uint8, or its labels cannot be, or teach nothing.
    """
    where = f"dataset {name!r}, split {split!r}"
    if not len(found):
        raise UserError(f"{where} is empty: images with labels are needed")
    some = found.images[:1]
    if some.dtype != np.uint8 or some.ndim != 4:
        raise UserError(f"{where} has {some.dtype} images of shape {some.shape[1:]}: uint8 and [h, w, c] is needed")
    task.check(where, found.images, found.labels, classes, learned)
    if learned:
        first, step = found.images[:1], 1024 if isinstance(found.images, np.ndarray) else 64  # those are decoded
        some = (found.images[at : at + step] for at in range(0, min(len(found), 2**15), step))
        if all((images == first).all() for images in some):
            warn(f"{where}: all {len(found):,} images are the same: there is nothing to learn from them")
    return found


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
    """Refuses labels that are none of the classes; the first such record is named."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{where}: record {wrong[0]} has the label {labels[wrong[0]]}, and labels go from 0 to {classes - 1} "
            f"({len(wrong):,} of {len(labels):,} records are out of range): mend them, or leave them out"
        )


def check_variety(where: str, labels: np.ndarray, classes: int, learned: bool) -> None:
    """Refuses class labels from which nothing can be learned, and says of those that teach or tell little.

    Args:
      where: the split, for messages.
      labels: ``[n]``.
      classes: of the data set.
      learned: whether they are to be learned from; else they are scored on.
    """
    count = len(labels)
    if not learned:
        if classes > 1 and (labels == labels[0]).all():
            warn(f"{where}: the label of all {count:,} images is the same: what is scored on them says little")
        return
    missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(missing) >= classes - 1:
        raise UserError(f"{where}: the label of all {count:,} images is the same: there is nothing to tell apart")
    if len(missing):
        names = f"{', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}"
        warn(f"{where}: no image is of class {names} (of {classes} classes), so none will be recognized")
    if count < FEW * classes:
        warn(f"{where}: {count:,} images for {classes} classes are few: what is learned will say little")


def warn(words: str) -> None:
    """Says something that does not stop the run."""
    print(f"warning: {words}", file=sys.stderr)


def check_shards(where: str, about: Any) -> None:
    """Makes sure that the files of a split are there, whole and of as many records as declared.

    Args:
      where: the split, for messages.
      about: what TFDS says of it: ``filepaths`` and ``shard_lengths``.

    Raises:
      UserError: if not; the file is named.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for path, declared in zip(about.filepaths, about.shard_lengths, strict=False):
        held = readable(f"{where}: {path}", functools.partial(_records_in, ArrayRecordReader, str(path)))
        if held != declared:
            raise UserError(f"{where}: {path} is to hold {declared:,} records and holds {held:,}: {ANEW}")


def _records_in(reader: Any, path: str) -> int:
    file = reader(path)
    try:
        return file.num_records()
    finally:
        file.close()


def readable(where: str, read: Callable[[], T]) -> T:
    """Returns what ``read()`` does.

    Raises:
      UserError: whatever ArrayRecord, a decoder or the system says; its first line is kept.
    """
    try:
        return read()
    except Exception as error:
        raise UserError(f"{where} cannot be read ({first_line(error)}): {ANEW}") from error
