"""Images and labels: scikit-learn's embedded digits, or any image-classification set of TensorFlow Datasets."""

import dataclasses
import difflib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import UserError

EVAL_BATCH = 500
MEMORY_LIMIT = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[n, height, width, channels]`` uint8, in memory or on disk, and labels ``[n]`` int32."""

    images: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


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
        """What models learn from."""
        return self.read("train")

    @functools.cached_property
    def test(self) -> Split:
        """What they are scored on."""
        return self.read("test")

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
      UserError: for a set that is unknown, not prepared, or not of images with class labels; on reading, for
        images of several sizes.
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
        builder.as_data_source(split="train")
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(
            name.split(":")[0], tfds.list_builders(with_community_datasets=False), n=5, cutoff=0.5
        )
        raise UserError(
            f"unknown dataset {name!r}: give 'digits' (embedded) or a name of TensorFlow Datasets"
            f"{', such as ' + ', '.join(near) if near else ''}"
        ) from error
    except Exception as error:  # whatever TFDS raises here, the remedy is the same, and the message keeps its words
        raise UserError(_how_to_prepare(name, data_dir, error)) from error
    image, label = builder.info.supervised_keys or ("image", "label")
    features, splits = builder.info.features, builder.info.splits
    has = image in features and label in features and hasattr(features[label], "num_classes")
    if not has or len(features[image].shape or ()) != 3:
        raise UserError(f"dataset {name!r} is not one of images with class labels: its features are {dict(features)}")
    test = next((split for split in ("test", "validation") if split in splits), None)
    if test is None:
        raise UserError(f"dataset {name!r} has no test or validation split, only {sorted(splits)}")

    def read(split: str) -> Split:
        return _read_tfds(builder, image, label, image_size, test if split == "test" else split)

    return Dataset(name, features[label].num_classes, read)


def _how_to_prepare(name: str, data_dir: str | None, error: Exception) -> str:
    folder = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    held = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return (
        f"dataset {name!r} is not prepared in {folder}, which "
        f"{'holds ' + ', '.join(held) if held else 'holds no data set'} "
        f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}).\n"
        "Prepare it once, on a machine with a network (this step alone needs TensorFlow):\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f"  tfds build {name} --file_format=array_record --data_dir={folder}\n"
        "then name the folder with --data_dir or TFDS_DATA_DIR."
    )


def _read_tfds(builder: Any, image: str, label: str, image_size: int | None, split: str) -> Split:
    """Decodes a split into memory if it fits there, else leaves it on disk to be decoded batch by batch."""
    import tensorflow_datasets as tfds

    raw = builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
    labels = np.array([record[label] for record in raw], np.int32)
    stored = _Stored(builder.as_data_source(split=split), image, builder.info.name, image_size)
    if len(labels) * stored[:1].nbytes > MEMORY_LIMIT:
        return Split(stored, labels)
    return Split(np.concatenate([stored[at : at + 1024] for at in range(0, len(labels), 1024)]), labels)


class _Stored:
    """Images on disk, indexed like an array: decoded, and resized if asked, when they are read."""

    def __init__(self, source: Any, key: str, name: str, size: int | None) -> None:
        self.source, self.key, self.name, self.size = source, key, name, size

    def __getitem__(self, index: Any) -> np.ndarray:
        records = self.source.__getitems__(np.arange(len(self.source))[index].tolist())
        images = [self._fit(record[self.key]) for record in records]
        if len(shapes := {image.shape for image in images}) != 1:
            raise UserError(
                f"dataset {self.name!r} has images of several sizes ({sorted(shapes)[0]}, {sorted(shapes)[-1]}, ...): "
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
      ``image [batch, h, w, c]`` uint8 and ``label [batch]`` int32.
    """
    batch_size = min(batch_size, len(split))
    epoch, position = divmod(step, len(split) // batch_size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(split))
    chosen = order[position * batch_size : (position + 1) * batch_size]
    images = _augment(split.images[chosen], np.random.default_rng([seed, 1, step]), shift, flip)
    return {"image": images, "label": split.labels[chosen]}


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
