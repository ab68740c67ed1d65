"""Batches are a pure function of seed and step; every image is learned from once an epoch and scored once."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.common import data, records
from train.common.data import Split
from train.common.errors import UserError

DIGITS = data.load("digits")


def numbered(n: int, size: int = 4) -> Split:
    """Images that are constant and say their own index."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 1))
    return Split(images, np.arange(n, dtype=np.int32))


def batches(split: Split, steps: range, size: int = 10, seed: int = 0, **augment: Any) -> list[dict[str, np.ndarray]]:
    options = {"shift": 0, "flip": False, **augment}
    return [data.train_batch(split, step, size, seed, **options) for step in steps]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forwards = batches(DIGITS.train, range(5), shift=2, flip=True)
    backwards = batches(data.load("digits").train, range(4, -1, -1), shift=2, flip=True)[::-1]
    for batch, again in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(batch["image"], again["image"])
        np.testing.assert_array_equal(batch["label"], again["label"])
    other = batches(DIGITS.train, range(5), seed=1, shift=2, flip=True)
    assert all((a["label"] != b["label"]).any() for a, b in zip(forwards, other, strict=True))


def test_an_epoch_is_a_permutation_cut_into_whole_batches() -> None:
    epochs = [np.concatenate([b["label"] for b in batches(numbered(103), range(e * 10, e * 10 + 10))]) for e in (0, 1)]
    for epoch in epochs:
        assert len(epoch) == 100
        assert len(set(epoch)) == 100
    assert (epochs[0] != epochs[1]).any()
    assert set(epochs[0]) != set(epochs[1])  # another three are left out


def test_a_batch_is_no_larger_than_the_split() -> None:
    (batch,) = batches(numbered(7), range(3, 4), size=100)
    assert sorted(batch["label"]) == list(range(7))


def test_image_and_label_belong_together() -> None:
    for batch in batches(numbered(40), range(8), flip=True):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_every_image_is_a_shift_and_flip_of_its_own_by_slow_loops() -> None:
    images = np.random.default_rng(0).integers(1, 256, (64, 5, 6, 3), np.uint8)
    split = Split(images, np.arange(64, dtype=np.int32))
    seen = set()
    for batch in batches(split, range(10), size=64, shift=1, flip=True):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            found = [
                (dy, dx, flip)
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                for flip in (False, True)
                if np.array_equal(image, slowly(images[label], dy, dx, flip))
            ]
            assert len(found) == 1
            seen.update(found)
    assert len(seen) == 18  # each of 9 shifts, mirrored or not
    for batch in batches(split, range(2), size=64, shift=1):
        for image, label in zip(batch["image"], batch["label"], strict=True):
            assert any(
                np.array_equal(image, slowly(images[label], y, x, False)) for y in (-1, 0, 1) for x in (-1, 0, 1)
            )


def slowly(image: np.ndarray, dy: int, dx: int, flip: bool) -> np.ndarray:
    """The image moved down by dy and right by dx over black, then mirrored."""
    height, width, _ = image.shape
    moved = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[y, x] = image[y - dy, x - dx]
    return np.stack([[row[width - 1 - x] for x in range(width)] for row in moved]) if flip else moved


@pytest.mark.parametrize("size", [1, 7, 10, 103, 500])
def test_evaluation_covers_each_image_once_in_order(size: int) -> None:
    found = np.concatenate([batch["label"] for batch in data.eval_batches(numbered(103), size)])
    np.testing.assert_array_equal(found, np.arange(103))


@pytest.mark.parametrize(("n", "multiple", "padded"), [(36, 8, 40), (40, 8, 40), (3, 8, 8), (5, 1, 5)])
def test_pad(n: int, multiple: int, padded: int) -> None:
    batch = data.pad({"image": np.ones((n, 2, 2, 1), np.uint8), "label": np.ones(n, np.int32)}, multiple)
    assert {key: (len(x), x.dtype.name) for key, x in batch.items()} == {
        "image": (padded, "uint8"),
        "label": (padded, "int32"),
        "valid": (padded, "float32"),
    }
    for key in batch:
        assert (batch[key][:n] == 1).all()
        assert (batch[key][n:] == 0).all()


def test_digits_are_split_once_and_for_all() -> None:
    train, test = DIGITS.train, DIGITS.test
    assert (train.images.shape, test.images.shape) == ((1198, 8, 8, 1), (599, 8, 8, 1))
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    from sklearn.datasets import load_digits

    # Disjoint: together they are scikit-learn's images, each once (its 16 levels are stretched to 255).
    bunch = load_digits()
    pixels = np.concatenate([train.images, test.images]).reshape(1797, -1) / 255 * 16
    together = np.column_stack([np.round(pixels), np.concatenate([train.labels, test.labels])])
    original = np.column_stack([bunch.data, bunch.target])
    np.testing.assert_array_equal(together[np.lexsort(together.T)], original[np.lexsort(original.T)])
    np.testing.assert_array_equal(test.labels[:8], [6, 6, 6, 2, 5, 6, 6, 2])  # the split of every earlier run
    for split in (train, test):
        shares = np.bincount(split.labels, minlength=10) / len(split)
        assert shares.min() > 0.07
        assert shares.max() < 0.13


def test_moments_are_those_of_the_training_pixels() -> None:
    pixels = DIGITS.train.images.astype(np.float64) / 255
    (mean,), (std,) = DIGITS.moments()
    assert mean == pytest.approx(pixels.mean(), rel=1e-6)
    assert std == pytest.approx(pixels.std(), rel=1e-6)


# TensorFlow Datasets


class Source:
    """What ``as_data_source`` gives, over a list of records."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Any:
        return iter(self.records)

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        return [self.records[key] for key in keys]


class Builder:
    """A prepared set of the given images."""

    def __init__(self, images: list[np.ndarray], features: dict[str, Any], splits: tuple[str, ...]) -> None:
        self.info = self
        self.name, self.features, self.splits, self.supervised_keys = "fake", features, splits, ("image", "label")
        self.records = [{"image": image, "label": i % 3} for i, image in enumerate(images)]

    def as_data_source(self, split: str, decoders: Any = None) -> Source:
        assert split in self.splits
        return Source(self.records)


def fake(monkeypatch: pytest.MonkeyPatch, images: list[np.ndarray], **changes: Any) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    label = changes.pop("label", tfds.features.ClassLabel(num_classes=3))
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
    builder = Builder(images, features, changes.pop("splits", ("train", "test")))
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)


def test_images_come_with_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2500, 2, 3, 3), np.uint8))
    fake(monkeypatch, images, splits=("train", "validation"))
    dataset = data.load("fake")
    assert dataset.classes == 3
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, np.arange(2500) % 3)


def test_a_large_set_is_read_from_disk_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    fake(monkeypatch, list(images))
    in_memory = data.load("fake").train
    monkeypatch.setattr(records, "MEMORY_LIMIT", 100)
    on_disk = data.load("fake").train
    assert isinstance(in_memory.images, np.ndarray)
    assert not isinstance(on_disk.images, np.ndarray)
    for step in range(7):
        mine, theirs = (data.train_batch(split, step, 8, 0, shift=1, flip=True) for split in (on_disk, in_memory))
        np.testing.assert_array_equal(mine["image"], theirs["image"])
    scored = np.concatenate([batch["image"] for batch in data.eval_batches(on_disk, 8)])
    np.testing.assert_array_equal(scored, images)


def test_images_of_several_sizes_are_resized_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200  # the square in the middle, which is what is kept
    fake(monkeypatch, [wide, np.full((6, 6, 3), 200, np.uint8)])
    with pytest.raises(UserError, match=r"several sizes \(\(4, 8, 3\), \(6, 6, 3\).*--config.image_size"):
        _ = data.load("fake").train
    resized = data.load("fake", image_size=2).train.images
    np.testing.assert_array_equal(resized, np.full((2, 2, 2, 3), 200))


def test_what_is_no_image_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    fake(monkeypatch, [], label=tfds.features.Scalar(np.int32))
    with pytest.raises(UserError, match="of images with class labels, which classification needs: its features are"):
        data.load("fake")
    fake(monkeypatch, [], splits=("train", "extra"))
    with pytest.raises(UserError, match=r"no test or validation split, only \['extra', 'train'\]"):
        data.load("fake")


def test_an_unknown_set_is_named_with_its_neighbors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown dataset 'mnits'.*'digits' \(embedded\).*such as mnist"):
        data.load("mnits", str(tmp_path))


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    (tmp_path / "kmnist").mkdir()
    with pytest.raises(UserError) as caught:
        data.load("mnist", str(tmp_path))
    message = str(caught.value)
    assert f"dataset 'mnist' is not prepared in {tmp_path}, which holds kmnist" in message
    assert f"tfds build mnist --file_format=array_record --data_dir={tmp_path}" in message
    assert "--data_dir or TFDS_DATA_DIR" in message


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [("mnist", (28, 28, 1), (60_000, 10_000)), ("cifar10", (32, 32, 3), (50_000, 10_000))],
)
def test_a_prepared_set_is_read_without_tensorflow(
    prepared: Path, name: str, shape: tuple[int, ...], sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises
    if not (prepared / name).is_dir():
        pytest.skip(f"{prepared} holds no {name}")
    dataset = data.load(name, str(prepared))
    test = dataset.test
    assert (dataset.classes, len(test), test.images.shape[1:]) == (10, sizes[1], shape)
    assert test.images.dtype == np.uint8
    assert sorted(set(test.labels.tolist())) == list(range(10))
    assert np.bincount(test.labels).min() > 800
    import tensorflow_datasets as tfds

    assert len(tfds.data_source(name, split="train", data_dir=str(prepared))) == sizes[0]


@pytest.fixture
def prepared() -> Path:
    """A folder of prepared TFDS sets: TFDS_DATA_DIR, or ``shared/tfds`` beside the checkout."""
    folder = Path(os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[4] / "shared" / "tfds")
    if not folder.is_dir():
        pytest.skip(f"no prepared TFDS data: set TFDS_DATA_DIR (looked in {folder})")
    return folder
