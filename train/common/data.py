"""Images and labels: scikit-learn's embedded digits, or any image-classification set of TensorFlow Datasets."""

import dataclasses
import difflib
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.common.checks import ANEW, check_labels, check_shards, readable, usable
from train.common.errors import UserError, first_line

EVAL_BATCH = 500
MEMORY_LIMIT = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[n, height, width, channels]`` uint8, in memory or on disk, and labels ``[n]`` int32.

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
    """

    name: str
    classes: int
    read: Callable[[str], Split]

    @functools.cached_property
    def train(self) -> Split:
        """What models learn from.

        Raises:
          UserError: if it cannot be read, a label is none of the classes, or nothing can be learnt from it.
        """
        return usable(self.name, "train", self.read("train"), self.classes, learnt=True)

    @functools.cached_property
    def test(self) -> Split:
        """What they are scored on.

        Raises:
          UserError: if it cannot be read, or a label is none of the classes.
        """
        return usable(self.name, "test", self.read("test"), self.classes)

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
        """Mean and deviation of the training pixels in [0, 1], per channel (of the first 32,768 images)."""
        images = self.train.images[: 2**15]
        pixels = images.reshape(-1, images.shape[-1])
        mean, std = pixels.mean(axis=0) / 255, pixels.std(axis=0) / 255
        return tuple(map(float, mean)), tuple(float(max(s, 1e-3)) for s in std)


def load(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """Opens a data set. A split is held in memory or, above 4 GiB, read from disk batch by batch.

    Args:
      name: ``"digits"`` (embedded, no download) or a TFDS name such as ``"mnist"`` or ``"cifar10:3.0.2"``.
      data_dir: folder of prepared TFDS data; None: the environment's TFDS_DATA_DIR, or TFDS's own default.
      image_size: side to which images are cropped and resized; None: as they are, which must be of one size.

    Returns:
      The data set.

    Raises:
      UserError: for a set that is unknown, not prepared, not whole, or not of images with class labels; on reading,
        for records that cannot be read, labels out of range, and images of several sizes.
    """
    if name == "digits":
        return Dataset(name, 10, _read_digits)
    return _open_tfds(name, data_dir, image_size)


def _read_digits(split: str) -> Split:
    """1,797 real handwritten digits of 8x8; a third of them, 599, is for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[: len(order) // 3] if split == "test" else order[len(order) // 3 :]
    return Split(images[chosen], labels[chosen])


def _open_tfds(name: str, data_dir: str | None, image_size: int | None) -> Dataset:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f'dataset {name!r} needs TensorFlow Datasets: pip install -e ".[train]" ({error})') from error
    logging.getLogger("absl").setLevel(logging.ERROR)  # its words are in our errors
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        image, label = builder.info.supervised_keys or ("image", "label")
        features, splits = builder.info.features, builder.info.splits
        if not splits or ("train" in splits and _declared(splits, "train") != 0):
            builder.as_data_source(split="train")
    except Exception as error:  # whatever TFDS raises here, the remedy is the same, and the message keeps its words
        unknown = isinstance(error, tfds.core.DatasetNotFoundError) and not (_root(data_dir) / _plain(name)).is_dir()
        raise UserError(_unknown(name) if unknown else _how_to_prepare(name, data_dir, error)) from error
    has = image in features and label in features and hasattr(features[label], "num_classes")
    if not has or len(features[image].shape or ()) != 3:
        raise UserError(f"dataset {name!r} is not one of images with class labels: its features are {dict(features)}")
    if (kind := np.dtype(getattr(features[image], "np_dtype", np.uint8))) != np.uint8:
        raise UserError(f"dataset {name!r} has {kind} images: uint8 is needed")
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        missing = "test or validation" if "train" in splits else "train"
        raise UserError(f"dataset {name!r} has no {missing} split, only {sorted(splits)}")
    classes = features[label].num_classes

    def read(split: str) -> Split:
        return _read_tfds(builder, (image, label), image_size, test if split == "test" else split, classes)

    return Dataset(name, classes, read)


def _declared(splits: Any, split: str) -> int | None:
    """How many records the data set says that a split holds; None if it does not say."""
    return getattr(splits[split], "num_examples", None) if isinstance(splits, dict) else None


def _root(data_dir: str | None) -> Path:
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _plain(name: str) -> str:
    """A data set's name without version and configuration."""
    return name.split(":")[0].split("/")[0]


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    near = difflib.get_close_matches(_plain(name), tfds.list_builders(with_community_datasets=False), n=5, cutoff=0.5)
    return (
        f"unknown dataset {name!r}: give 'digits' (embedded) or a name of TensorFlow Datasets"
        f"{', such as ' + ', '.join(near) if near else ''}"
    )


def _how_to_prepare(name: str, data_dir: str | None, error: Exception) -> str:
    folder = _root(data_dir)
    held = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if _plain(name) in held:
        what = f"in {folder / _plain(name)} cannot be used, as it is damaged, or prepared otherwise"
    else:
        what = f"is not prepared in {folder}, which {'holds ' + ', '.join(held) if held else 'holds no data set'}"
    return (
        f"dataset {name!r} {what} ({first_line(error)}).\n"
        "Prepare it once, on a machine with a network (this step alone needs TensorFlow):\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f"  tfds build {name} --file_format=array_record --data_dir={folder}\n"
        "then name the folder with --data_dir or TFDS_DATA_DIR."
    )


def _read_tfds(builder: Any, keys: tuple[str, str], image_size: int | None, split: str, classes: int) -> Split:
    """Decodes a split into memory if it fits there, else leaves it on disk to be decoded batch by batch."""
    import tensorflow_datasets as tfds

    where, about = f"dataset {builder.info.name!r}, split {split!r}", builder.info.splits
    if _declared(about, split) == 0:
        raise UserError(f"{where} is empty: images with labels are needed")
    if _declared(about, split) is not None:
        check_shards(where, about[split])
    raw = readable(where, lambda: builder.as_data_source(split=split, decoders={keys[0]: tfds.decode.SkipDecoding()}))
    source = readable(where, lambda: builder.as_data_source(split=split))
    labels, digest = _labels(raw, keys, where)
    check_labels(where, labels, classes)
    images: Any = _Stored(source, keys[0], where, image_size)
    if len(labels) and len(labels) * images[:1].nbytes <= MEMORY_LIMIT:
        images = np.concatenate([images[at : at + _CHUNK] for at in range(0, len(labels), _CHUNK)])
    return Split(images, labels.astype(np.int32), digest)


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


class _Stored:
    """Images on disk, indexed like an array: decoded, and resized if asked, when they are read."""

    def __init__(self, source: Any, key: str, where: str, size: int | None) -> None:
        self.source, self.key, self.where, self.size = source, key, where, size

    def __getitem__(self, index: Any) -> np.ndarray:
        records = _records(self.source, np.arange(len(self.source))[index].tolist(), self.where)
        images = [self._fit(record[self.key]) for record in records]
        if len(shapes := {image.shape for image in images}) != 1:
            raise UserError(
                f"{self.where} has images of several sizes ({sorted(shapes)[0]}, {sorted(shapes)[-1]}, ...): "
                "name one to which all are resized, with --config.image_size=224"
            )
        return np.stack(images)

    def _fit(self, image: np.ndarray) -> np.ndarray:
        if self.size is None or image.shape[:2] == (self.size, self.size):
            return image
        from PIL import Image

        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        resized = square.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(resized).reshape(self.size, self.size, -1)


def train_batch(
    split: Split, step: int, batch_size: int, seed: int, *, shift: int, flip: bool
) -> dict[str, np.ndarray]:
    """The batch of a step: a pure function of the seed and the step, so that a resumed run sees the same images.

    Every epoch is a fresh permutation, cut into whole batches. Images are moved by up to ``shift`` pixels, with
    black filling in, and mirrored at random if ``flip``.

    Returns:
      ``image [batch, h, w, c]`` uint8, ``label [batch]`` int32, and ``index [batch]`` int32, the images' numbers in the
      split.
    """
    batch_size = min(batch_size, len(split))
    epoch, position = divmod(step, len(split) // batch_size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(split))
    chosen = order[position * batch_size : (position + 1) * batch_size]
    images = _augment(split.images[chosen], np.random.default_rng([seed, 1, step]), shift, flip)
    return {"image": images, "label": split.labels[chosen], "index": chosen.astype(np.int32)}


def _augment(images: np.ndarray, rng: np.random.Generator, shift: int, flip: bool) -> np.ndarray:
    n, height, width, _ = images.shape
    offsets = rng.integers(0, 2 * shift + 1, size=(n, 2))
    mirrored = (rng.random((n, 1, 1, 1)) < 0.5) & flip
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    moved = np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)])
    return np.where(mirrored, moved[:, :, ::-1], moved)


def eval_batches(split: Split, batch_size: int = EVAL_BATCH) -> Iterator[dict[str, np.ndarray]]:
    """The split in order, in batches of one size but for the last."""
    for start in range(0, len(split), batch_size):
        yield {"image": split.images[start : start + batch_size], "label": split.labels[start : start + batch_size]}


def pad(batch: dict[str, np.ndarray], multiple: int) -> dict[str, np.ndarray]:
    """Pads a batch to a multiple of the device count; ``valid [batch]`` float32 is 0 for what was added."""
    n = len(batch["label"])
    missing = -n % multiple
    padded = {key: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) for key, x in batch.items()}
    return padded | {"valid": (np.arange(n + missing) < n).astype(np.float32)}
