"""Sets of TensorFlow Datasets as arrays: found, checked and decoded without TensorFlow; what is missing is told."""

import difflib
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.common import known
from train.common.checks import ANEW, check_labels, check_shards, readable
from train.common.errors import UserError, first_line
from train.common.stored import Reading, Stored, in_memory, several_sizes
from train.tasks.task import Columns, Task

MEMORY_LIMIT = 4 * 2**30


class Prepared(NamedTuple):
    """A set that is there.

    Attributes:
      classes: how many.
      read: ``"train"`` or ``"test"`` -> images, labels, and the SHA-256 of the records they come from, if it is known.
    """

    classes: int
    read: Callable[[str], tuple[Any, np.ndarray, str]]


def open_tfds(name: str, data_dir: str | None, reading: Reading, task: Task) -> Prepared:
    """Finds a set and checks that it is of what a task needs.

    Args:
      name: as TFDS has it.
      data_dir: folder of prepared sets; None: the environment's TFDS_DATA_DIR, or TFDS's own.
      reading: how images become arrays.
      task: what images are asked.

    Raises:
      UserError: as :func:`train.common.data.load`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f'dataset {name!r} needs TensorFlow Datasets: pip install -e ".[train]" ({error})') from error
    logging.getLogger("absl").setLevel(logging.ERROR)  # its words are in our errors
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        keys = builder.info.supervised_keys or ()
        features, splits = builder.info.features, builder.info.splits
        if not splits or ("train" in splits and _declared(splits, "train") != 0):
            builder.as_data_source(split="train")
    except Exception as error:  # whatever TFDS raises here, the remedy is the same, and the message keeps its words
        unknown = isinstance(error, tfds.core.DatasetNotFoundError) and not (_root(data_dir) / plain(name)).is_dir()
        raise UserError(_unknown(name) if unknown else _how_to_prepare(name, data_dir, error)) from error
    columns = task.columns(dict(features), keys)
    if columns is None or len(features[columns.image].shape or ()) != 3:
        raise UserError(
            f"dataset {name!r} is not one of {task.needs}, which {task.name} needs: its features are {dict(features)}"
        )
    if (kind := np.dtype(getattr(features[columns.image], "np_dtype", np.uint8))) != np.uint8:
        raise UserError(f"dataset {name!r} has {kind} images: uint8 is needed")
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        missing = "test or validation" if "train" in splits else "train"
        raise UserError(f"dataset {name!r} has no {missing} split, only {sorted(splits)}")

    @functools.cache
    def read(split: str) -> tuple[Any, np.ndarray, str]:
        how = _read_classes if task.whole else _read_examples
        own = reading if split == "train" else reading._replace(random_crop=0.0, corrupt="stop")
        return how(task, builder, columns, own, test if split == "test" else split)

    # where the set does not say how many classes there are, those that are learned count
    classes = columns.classes or 1 + int(max(label for label in np.unique(read("train")[1]) if label != 255))
    return Prepared(classes, read)


def _declared(splits: Any, split: str) -> int | None:
    """How many records the data set says that a split holds; None if it does not say."""
    return getattr(splits[split], "num_examples", None) if isinstance(splits, dict) else None


def _root(data_dir: str | None) -> Path:
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def plain(name: str) -> str:
    """A data set's name without version and configuration."""
    return name.split(":")[0].split("/")[0]


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    near = difflib.get_close_matches(plain(name), tfds.list_builders(with_community_datasets=False), n=5, cutoff=0.5)
    return (
        f"unknown dataset {name!r}: give 'digits' (embedded) or a name of TensorFlow Datasets"
        f"{', such as ' + ', '.join(near) if near else ''}"
    )


def _how_to_prepare(name: str, data_dir: str | None, error: Exception) -> str:
    folder = _root(data_dir)
    held = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if plain(name) in held:
        what = f"in {folder / plain(name)} cannot be used, as it is damaged, or prepared otherwise"
    else:
        what = f"is not prepared in {folder}, which {'holds ' + ', '.join(held) if held else 'holds no data set'}"
    return (
        f"dataset {name!r} {what} ({first_line(error)}).\n"
        "Prepare it once, on a machine with a network (this step alone needs TensorFlow):\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f"  tfds build {name} --file_format=array_record --data_dir={folder}\n"
        "then name the folder with --data_dir or TFDS_DATA_DIR."
    )


def _sources(builder: Any, split: str) -> tuple[str, Callable[..., Any]]:
    """A split in words, and what opens it.

    Raises:
      UserError: if it is empty, or its files are not whole.
    """
    where, about = f"dataset {builder.info.name!r}, split {split!r}", builder.info.splits
    if _declared(about, split) == 0:
        raise UserError(f"{where} is empty: images with labels are needed")
    if _declared(about, split) is not None:
        check_shards(where, about[split])
    return where, lambda **how: readable(where, lambda: builder.as_data_source(split=split, **how))


def _read_classes(
    task: Task, builder: Any, columns: Columns, reading: Reading, split: str
) -> tuple[Any, np.ndarray, str]:
    """Images with a class each, decoded into memory if they fit there, else left on disk and decoded batch by batch."""
    import tensorflow_datasets as tfds

    where, open_ = _sources(builder, split)
    keys = columns.image, columns.label
    raw = open_(decoders={columns.image: tfds.decode.SkipDecoding()})
    about = builder.info.splits
    files = about[split].filepaths if isinstance(about, dict) else ()
    labels, digest = known.labels(where, files, " ".join(keys), lambda: _labels(raw, keys, where))
    check_labels(where, labels, columns.classes or 0)

    def fetch(numbers: Sequence[int]) -> list[Any]:
        return [record[columns.image] for record in _records(raw, numbers, where)]

    channels = builder.info.features[columns.image].shape[-1] or 3
    stored = Stored(fetch, lambda number: f"record {number}", len(labels), channels, reading, where)
    images, labels = in_memory(stored, labels, MEMORY_LIMIT)
    return images, task.stacked(labels.tolist()), digest


def _read_examples(
    task: Task, builder: Any, columns: Columns, reading: Reading, split: str
) -> tuple[Any, np.ndarray, str]:
    """Images with labels that belong to places in them, decoded into memory together."""
    where, open_ = _sources(builder, split)
    source, size = open_(), 0
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(len(source)):
        (record,) = _records(source, [number], where)
        for key in (columns.image, columns.label):
            if record.get(key) is None:
                raise UserError(f"{where}: record {number} has no {key}: {ANEW}")
        try:
            own = task.examples(record[columns.image], record[columns.label], reading.image_size)
        except ValueError as error:
            raise UserError(f"{where}: record {number}: {error}: mend it, or leave it out") from error
        if found and own[0][0].shape != found[0][0].shape:
            raise several_sizes(where, {found[0][0].shape, own[0][0].shape})
        found += own
        size += sum(image.nbytes for image, _ in own)
        if size > MEMORY_LIMIT:
            raise UserError(
                f"{where} takes more than {MEMORY_LIMIT >> 30} GiB of memory, which {task.name} holds it in: name "
                "smaller images, with --config.image_size"
            )
    if not found:
        raise UserError(f"{where} is empty: images with labels are needed")
    images, labels = zip(*found, strict=True)
    return np.stack(images), task.stacked(labels), ""


_CHUNK = 1024  # records read at once: one by one costs three times as much


def _labels(raw: Any, keys: tuple[str, str], where: str) -> tuple[np.ndarray, str]:
    """The labels of records whose images are not decoded, and the SHA-256 of both."""
    labels, total = np.zeros(len(raw), np.int64), hashlib.sha256()
    for at in range(0, len(raw), _CHUNK):
        for number, record in enumerate(_records(raw, range(at, min(at + _CHUNK, len(raw))), where), at):
            encoded, label = (record.get(key) for key in keys)
            if encoded is None or label is None:
                raise UserError(f"{where}: record {number} has no {keys[0] if encoded is None else keys[1]}: {ANEW}")
            depth = encoded[24] if len(encoded) > 24 and bytes(encoded[:4]) == b"\x89PNG" else 8
            if depth > 8:  # decoders would keep the lower 8 bits
                raise UserError(f"{where}: record {number} is a PNG of {depth} bits a channel: 8 are needed")
            labels[number] = label
            total.update(f"{label} ".encode())
            total.update(np.ascontiguousarray(encoded).data if isinstance(encoded, np.ndarray) else encoded)
    return labels, total.hexdigest()


def _records(source: Any, numbers: Sequence[int], where: str) -> list[dict[str, Any]]:
    """Records of a split by their numbers.

    Raises:
      UserError: if one cannot be read; it is named.
    """
    try:
        return source.__getitems__(list(numbers))
    except Exception:  # whatever ArrayRecord, the decoder or the system says: one by one they say of which record
        one_by_one = (functools.partial(source.__getitems__, [number]) for number in numbers)
        return [readable(f"{where}: record {n}", read)[0] for n, read in zip(numbers, one_by_one, strict=True)]
