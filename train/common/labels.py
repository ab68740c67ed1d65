"""Answers of a teacher that ran once: the likeliest classes of views of each training image, in an array_record file.

A folder holds one file: a header that says whose answers these are, then those to the first view of all images in
order, to the second, and so on. While they are made there is a file for each part, so that a kill loses one part.
"""

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from jaxcomp.core.files import naming
from jaxcomp.core.paths import named_leaves
from train.common import data, lock, mirror, sealed
from train.common.errors import UserError, first_line
from train.common.parallel import data_parallel
from train.common.progress import Progress
from train.common.step import Functions, Variables
from train.common.views import key_of, mixes

FILE = "labels.array_record"
PART = 2**14  # images at most
BATCH = 512
_FORM = "answers of a teacher, 1"
TEMPERATURE = 4.0
"""At which answers are kept: at 1, of a teacher that is sure, all other classes are below the last level."""

Header = dict[str, Any]


def teacher_digest(variables: Variables, about: Any) -> str:
    """SHA-256 of a teacher's variables and of what else makes its answers.

    Args:
      variables: arrays.
      about: JSON-able: its model's name, options, normalization.
    """
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, leaf in sorted(named_leaves(variables).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def header(dataset: data.Dataset, teacher: str, view: jc.augment.Augmentation | None, **fields: int) -> Header:
    """The header of a file of answers.

    Args:
      dataset: whose training images are shown.
      teacher: of :func:`teacher_digest`.
      view: what is done to images; None: nothing.
      **fields: ``seed`` of the views, ``views`` of each image, and ``k`` classes of an answer.

    Raises:
      UserError: for views that cannot be shown again by image, numbers out of range, or several hosts.
    """
    if jax.process_count() > 1:
        raise UserError(
            "answers of a teacher are made by one process: use one host, or let it run in the step, views=0"
        )
    if view is not None and mixes(view, dataset):
        raise UserError(f"{view} mixes images with their neighbors in the batch: such views belong to no image alone")
    if fields["views"] < 1 or not 2 <= fields["k"] <= dataset.classes:
        raise UserError(
            f"views must be 1 or more and k from 2 to the {dataset.classes} classes, got {fields['views']} and "
            f"{fields['k']}"
        )
    about = {"data set": dataset.train.digest, "images": len(dataset.train), "classes": dataset.classes}
    how = {"augmentation": repr(view), "temperature": TEMPERATURE}
    return {"form": _FORM, "teacher": teacher, **about, **how, **fields}


def logits(answers: jax.Array, classes: int, k: int) -> jax.Array:
    """Decodes a teacher's answers ``[batch, bytes]`` to logits ``[batch, classes]``; inside jit."""
    return TEMPERATURE * jc.distill.load_labels(answers, classes, k)


class Labels:
    """Answers in a file, read as they are needed.

    Attributes:
      about: the header.
    """

    def __init__(self, path: Path, about: Header) -> None:
        """Opens a file.

        Args:
          path: the file.
          about: the header that it must have.

        Raises:
          UserError: if it is damaged, cut off, or has another.
        """
        self.path, self.about = path, about
        self._parts = len(_parts(about["images"]))
        records = 1 + about["views"] * self._parts
        _check(path, _records(path, [0])[0], about)
        if _count(path) != records:
            raise _damaged(path, f"it is to hold {records:,} records and holds {_count(path):,}")
        self._view = functools.lru_cache(maxsize=2)(self._read)

    def _read(self, view: int) -> np.ndarray:
        first = 1 + view * self._parts
        found = _records(self.path, range(first, first + self._parts))
        return np.concatenate([_rows(self.path, each, self.about) for each in found])

    def of(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """Answers to the view of an epoch, as :func:`logits` takes them.

        Args:
          epoch: from 0; views follow each other, and begin again.
          numbers: ``[n]`` of images in the training split.

        Returns:
          ``[n, bytes]`` uint8.

        Raises:
          UserError: if the file is damaged there.
        """
        return self._view(epoch % self.about["views"])[numbers]

    def beside(self, per_epoch: int) -> Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]]:
        """``(step, batch) -> batch`` with ``soft [n, bytes]``, of so many steps an epoch."""
        return lambda step, batch: {**batch, "soft": self.of(step // per_epoch, batch["index"])}


def kept(
    folder: Path,
    model: Functions,
    variables: Variables,
    dataset: data.Dataset,
    view: jc.augment.Augmentation | None,
    about: Header,
) -> Labels:
    """The answers of a folder; what is missing there is made, so that a call that was killed is gone on with.

    Args:
      folder: for the file.
      model: the teacher's functions.
      variables: its variables.
      dataset: whose training images are shown.
      view: what is done to them.
      about: of :func:`header`, for these.

    Raises:
      UserError: if the folder holds answers of anything else, a file is damaged, or the teacher answers with what is
        no number.
    """
    file = folder / FILE
    if file.exists():
        return Labels(file, about)
    folder.mkdir(parents=True, exist_ok=True)
    lock.take(folder)
    for torn in folder.glob(".*.tmp"):  # of a call that was killed while it wrote
        torn.unlink()
    answer = _answering(model, view, about)
    work = [(view, part) for view in range(about["views"]) for part in _parts(about["images"])]
    paths = [folder / f"part-{number:05}.array_record" for number in range(len(work))]
    spread, done = data_parallel("jit"), sum(path.exists() for path in paths)
    placed = spread.put(variables)
    with Progress("labels", len(work), done) as progress:
        for number, ((view_number, part), path) in enumerate(zip(work, paths, strict=True)):
            own = {**about, "part": number}
            if path.exists():
                _check(path, _records(path, [0])[0], own)
                continue
            with progress.doing("asking the teacher"):
                rows = _answers(answer, spread, placed, dataset.train, view_number, part)
            lock.check(folder)
            _write(path, [sealed.sealed(own), rows.tobytes()])
            mirror.push(folder)
            progress.advance()
    _write(file, _joined(about, paths))
    for path in paths:
        path.unlink()
    lock.release(folder)
    return Labels(file, about)


def _joined(about: Header, paths: list[Path]) -> Iterator[bytes]:
    yield sealed.sealed(about)
    for path in paths:
        yield _records(path, [1])[0]


def _parts(images: int) -> list[range]:
    """Ranges of images, of about one length, none longer than PART."""
    count = -(-images // PART)
    ends = [images * n // count for n in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def _answering(model: Functions, view: Any, about: Header) -> Callable[..., Any]:
    """``(variables, number of the view, batch) -> (rows, whether all logits are numbers)``."""

    def answer(variables: Variables, number: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        images = batch["image"]
        if view is not None:
            images, _ = view(key_of(about["seed"], number), images, indices=batch["index"])
        logits = model.infer(variables, images)
        wrong = jnp.any(jnp.isnan(logits) | jnp.isposinf(logits), -1) & (batch["valid"] > 0)
        return jc.distill.store_labels(logits / TEMPERATURE, about["k"]), ~jnp.any(wrong)

    return jax.jit(answer)


def _answers(answer: Any, spread: Any, variables: Any, split: data.Split, view: int, part: range) -> np.ndarray:
    found = []
    for start in range(part.start, part.stop, BATCH):
        numbers = np.arange(start, min(start + BATCH, part.stop), dtype=np.int32)
        batch = {"image": split.images[start : numbers[-1] + 1], "label": numbers, "index": numbers}
        rows, sound = answer(variables, np.int32(view), spread.split(data.pad(batch, min(BATCH, len(split)))))
        if not sound:
            raise UserError(f"the teacher answers to images {start} to {numbers[-1]} with what is no number")
        found.append(np.asarray(rows)[: len(numbers)])
    return np.concatenate(found)


def _write(path: Path, records: Any) -> None:
    """Writes a file of records under a temporary name, and renames it once it is on disk."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        try:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        except RuntimeError as error:  # as it says that a disk is full
            raise OSError(f"{path} cannot be written ({first_line(error)})") from error
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _reader(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")


def _count(path: Path) -> int:
    reader = _reader(path)
    try:
        return int(reader.num_records())
    finally:
        reader.close()


def _records(path: Path, numbers: Any) -> list[bytes]:
    try:
        reader = _reader(path)
        try:
            return list(reader.read(list(numbers)))
        finally:
            reader.close()
    except Exception as error:  # whatever ArrayRecord or the system says
        raise _damaged(path, first_line(error)) from error


def _rows(path: Path, record: bytes, about: Header) -> np.ndarray:
    size = jc.distill.stored_bytes(about["classes"], about["k"])
    if not len(record) or len(record) % size:
        raise _damaged(path, f"a record holds {len(record):,} bytes, and an answer takes {size}")
    return np.frombuffer(record, np.uint8).reshape(-1, size)


def _check(path: Path, record: bytes, about: Header) -> None:
    try:
        theirs = sealed.unsealed(record)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header: {error}") from error
    differ = [name for name in {**about, **theirs} if about.get(name) != theirs.get(name)]
    if differ:
        listing = "\n".join(f"  {name}: {theirs.get(name)!r} there, {about.get(name)!r} now" for name in differ)
        raise UserError(
            f"{path} holds other answers than are asked for:\n{listing}\n"
            "Give the options that it was made with, name another folder, or delete that one to make it anew."
        )


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}).\nDelete that file: its answers are made again.")
