"""Images of one's own, by the folder that holds them: class folders, or array_record files of (image, label)."""

import collections
import functools
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.common import known
from train.common.checks import check_labels, readable
from train.common.errors import UserError
from train.common.stored import Reading, Stored, in_memory

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TEST = ("test", "validation", "val")
HELD_OUT = 10
"""Where a folder has no split, every tenth image of a class is for testing."""
LAYOUT = "FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, or FOLDER/train*.array_record"
IMAGE_KEYS, LABEL_KEYS = ("image", "image/encoded"), ("label", "image/class/label")
"""Features of the tf.train.Example that a record is."""
MODES = 32
"""Images of which it is seen whether they are gray."""
GRAY = {"1", "L", "LA"}
"""PIL's modes of gray images."""


class Found(NamedTuple):
    """A split.

    Attributes:
      fetch: numbers -> encoded images.
      names: number -> what an image is called.
      labels: ``[n]`` int32.
      digest: SHA-256 of names, sizes and labels.
    """

    fetch: Callable[[Sequence[int]], Sequence[Any]]
    names: Callable[[int], str]
    labels: np.ndarray
    digest: str


def is_path(name: str) -> bool:
    """Whether a data set's name is that of a folder.

    Example:
      >>> [is_path(name) for name in ("cifar10", "imagenet_resized/32x32", "./birds", "/data/birds")]
      [False, False, True, True]
    """
    return name in (".", "..") or name.startswith(("/", "./", "../", "~"))


def absolute(name: str) -> str:
    """A data set's name that is the same from every folder."""
    return str(Path(name).expanduser().absolute()) if is_path(name) else name


def open_folder(name: str, reading: Reading, limit: int) -> tuple[int, Callable[[str], tuple[Any, np.ndarray, str]]]:
    """Finds the images of a folder.

    Args:
      name: the folder.
      reading: how images become arrays.
      limit: bytes that a split may take in memory.

    Returns:
      The number of classes, and ``"train"`` or ``"test"`` -> images, labels and a digest.

    Raises:
      UserError: for a folder that is not there, or holds nothing of the kind; its layout is told.
    """
    root = Path(name).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset {name!r}: there is no such folder; it would hold {LAYOUT}")
    classes, splits = _records(name, root) if any(root.glob("*.array_record*")) else _counted(name, root)

    @functools.cache
    def read(split: str) -> tuple[Any, np.ndarray, str]:
        found, where = splits[split], f"dataset {name!r}, split {split!r}"
        if not len(found.labels):
            raise UserError(f"{where} is empty: images with labels are needed")
        check_labels(where, found.labels, classes)
        how = reading if split == "train" else reading._replace(random_crop=0.0, corrupt="stop")
        stored = Stored(found.fetch, found.names, len(found.labels), _channels(splits["train"]), how, where)
        return *in_memory(stored, found.labels, limit), found.digest

    return classes, read


def _channels(found: Found) -> int:
    """1 where the images that are looked at are gray; those that cannot be read tell nothing."""
    from PIL import Image

    numbers = np.unique(np.linspace(0, len(found.labels) - 1, MODES).astype(int)).tolist()
    modes = set()
    for encoded in found.fetch(numbers):
        try:
            modes.add(Image.open(io.BytesIO(encoded)).mode)
        except Exception:  # it is told when it is decoded
            continue
    return 1 if modes and modes <= GRAY else 3


def _counted(name: str, root: Path) -> tuple[int, dict[str, Found]]:
    classes, splits = class_folders(name, root)
    return len(classes), splits


def class_folders(name: str, root: Path) -> tuple[list[str], dict[str, Found]]:
    """The names of the classes of a folder, and its splits, ``"train"`` and ``"test"``.

    Raises:
      UserError: for a folder of another layout.
    """
    if not (root / "train").is_dir():
        classes = _classes(name, root)
        images = [each for number, own in enumerate(classes) for each in _images(root / own, number)]
        places = _places([label for _, _, label in images])
        held = [place % HELD_OUT == HELD_OUT - 1 for place in places]
        parts = {"train": False, "test": True}
        return classes, {
            split: _listed(root, [one for one, out in zip(images, held, strict=True) if out == wanted])
            for split, wanted in parts.items()
        }
    test = next((root / own for own in TEST if (root / own).is_dir()), None)
    if test is None:
        raise UserError(f"dataset {name!r} has a folder train and none of {', '.join(TEST)}: it would hold {LAYOUT}")
    classes, found = _classes(name, root / "train"), {}
    if unknown := sorted(set(_classes(name, test)) - set(classes)):
        raise UserError(f"dataset {name!r}: {test} has classes that train has not: {', '.join(unknown[:8])}")
    for split, folder in (("train", root / "train"), ("test", test)):
        there = [(number, folder / own) for number, own in enumerate(classes) if (folder / own).is_dir()]
        found[split] = _listed(root, [each for number, own in there for each in _images(own, number)])
    return classes, found


def _places(labels: list[int]) -> list[int]:
    """Which of its class each image is."""
    seen = collections.Counter[int]()
    places = []
    for label in labels:
        places.append(seen[label])
        seen[label] += 1
    return places


def _classes(name: str, folder: Path) -> list[str]:
    """Names of the classes in order: of folders that are not hidden."""
    held = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    classes = [own for own in held if (folder / own).is_dir()]
    if not classes:
        holds = f"{', '.join(held[:8])}{', ...' if len(held) > 8 else ''}" or "nothing"
        raise UserError(f"dataset {name!r}: {folder} has no folders of classes, it holds {holds}; needed is {LAYOUT}")
    return classes


def _images(folder: Path, label: int) -> list[tuple[str, int, int]]:
    """Path, bytes and label of each image of a class, in order; folders in it count too."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _images(Path(entry.path), label)
        elif entry.name.lower().endswith(SUFFIXES):
            found.append((entry.path, entry.stat().st_size, label))
    return found


def _listed(root: Path, images: list[tuple[str, int, int]]) -> Found:
    total = hashlib.sha256()
    for path, size, label in images:
        total.update(f"{Path(path).relative_to(root).as_posix()} {size} {label}\n".encode())
    paths = [path for path, _, _ in images]
    labels = np.array([label for _, _, label in images], np.int32)

    def fetch(numbers: Sequence[int]) -> list[bytes]:
        return [Path(paths[number]).read_bytes() for number in numbers]

    return Found(fetch, paths.__getitem__, labels, total.hexdigest())


def _records(name: str, root: Path) -> tuple[int, dict[str, Found]]:
    found, held = {}, sorted(path.name for path in root.glob("*.array_record*"))
    for split, prefixes in (("train", ("train",)), ("test", TEST)):
        own = next(([root / file for file in held if file.startswith(prefix)] for prefix in prefixes
                    if any(file.startswith(prefix) for file in held)), None)  # fmt: skip
        if own is None:
            raise UserError(f"dataset {name!r} has no files of {' or '.join(prefixes)}, it holds {', '.join(held[:8])}")
        _check_whole(f"dataset {name!r}, split {split!r}", own)
        found[split] = _of_records(f"dataset {name!r}, split {split!r}", own)
    return 1 + int(found["train"].labels.max(initial=0)), found


def _check_whole(where: str, paths: list[Path]) -> None:
    """Refuses files of which each says of how many it is one, where they are not so many, or of two such sets."""
    totals = {int(found[1]) for path in paths if (found := re.search(r"-of-(\d+)(?=\.|$)", path.name))}
    if totals and totals != {len(paths)}:
        said = " and ".join(map(str, sorted(totals)))
        raise UserError(
            f"{where} has {len(paths)} files, and their names are of sets of {said}: give the command that writes them "
            "again if it was stopped, or remove those that do not belong there"
        )


def _of_records(where: str, paths: list[Path]) -> Found:
    """The examples of files, whose labels are read once: with them all records are."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = readable(where, lambda: ArrayRecordDataSource([str(path) for path in paths]))

    def read() -> tuple[np.ndarray, str]:
        labels, total = np.zeros(len(source), np.int32), hashlib.sha256()
        for path in paths:
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
        for at in range(0, len(source), 1024):
            numbers = list(range(at, min(at + 1024, len(source))))
            records = readable(where, functools.partial(source.__getitems__, numbers))
            for number, record in zip(numbers, records, strict=True):
                labels[number] = _example(record, LABEL_KEYS, f"{where}: record {number}")
        total.update(labels.tobytes())
        return labels, total.hexdigest()

    labels, digest = known.labels(where, paths, " ".join(LABEL_KEYS), read)

    def fetch(numbers: Sequence[int]) -> list[bytes]:
        records = readable(where, lambda: source.__getitems__(list(numbers)))
        return [_example(own, IMAGE_KEYS, f"{where}: record {n}") for n, own in zip(numbers, records, strict=True)]

    return Found(fetch, lambda number: f"record {number}", labels, digest)


def write_records(path: Path, pairs: Iterable[tuple[bytes, int]]) -> None:
    """Writes an array_record file of encoded images and labels, whole or not at all.

    Each record is a tf.train.Example of ``image`` and ``label``, compressed by itself, so that any is read at once.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.with_name(f".{path.name}.tmp")
    writer = ArrayRecordWriter(str(torn), "group_size:1")
    try:
        for image, label in pairs:
            record = proto.Example()
            record.features.feature[IMAGE_KEYS[0]].bytes_list.value.append(image)
            record.features.feature[LABEL_KEYS[0]].int64_list.value.append(label)
            writer.write(record.SerializeToString())
    except BaseException:
        writer.close()
        torn.unlink()
        raise
    writer.close()
    torn.replace(path)


def count_records(paths: Iterable[Path]) -> int:
    """How many records files hold together."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return len(ArrayRecordDataSource([str(path) for path in paths]))


def _example(record: bytes, keys: tuple[str, ...], where: str) -> Any:
    """A feature of a tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    try:
        features = proto.Example.FromString(record).features.feature
    except Exception as error:
        raise UserError(f"{where} is no tf.train.Example, of which image and label would be read: {error}") from error
    key = next((key for key in keys if key in features), None)
    values = [] if key is None else (features[key].int64_list.value or features[key].bytes_list.value)
    if len(values) != 1 or isinstance(values[0], bytes) != (keys is IMAGE_KEYS):
        what = "the bytes of an image" if keys is IMAGE_KEYS else "a whole number"
        raise UserError(
            f"{where} needs {what} as {' or '.join(keys)}; it has {', '.join(sorted(features)) or 'nothing'}"
        )
    return values[0]
