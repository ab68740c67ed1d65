"""Sets with boxes and masks: what is read of them, and which records are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.common.test_data import Builder, prepared
from train.common import data
from train.common.errors import UserError
from train.tasks.classification import CLASSIFICATION
from train.tasks.detection import DETECTION
from train.tasks.segmentation import NONE, SEGMENTATION

__all__ = ["prepared"]  # a fixture

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (6, 8, 3), np.uint8), RNG.integers(0, 256, (4, 4, 3), np.uint8)]
BOXES = [[[0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 1.0]], []]
MASKS = [RNG.integers(0, 3, (*image.shape[:2], 1), np.uint8) for image in IMAGES]


def fake(monkeypatch: pytest.MonkeyPatch, records: list[dict[str, Any]]) -> None:
    """A prepared set of these records, in both splits; its features are of boxes and of masks."""
    tfds = pytest.importorskip("tensorflow_datasets")
    objects = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=3)}
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "objects": tfds.features.Sequence(objects),
            "mask": tfds.features.Image(shape=(None, None, 1)),
        }
    )
    builder = Builder([], features, ("train", "test"))
    builder.supervised_keys, builder.records = (), records
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    objects = {"bbox": BOXES[number], "label": [2, 0][: len(BOXES[number])]}
    return {"image": IMAGES[number], "objects": objects, "mask": MASKS[number]} | changes


def test_boxes_go_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, [record(0), record(1)])
    split = data.load("fake", image_size=4, task=DETECTION).read_all().train
    assert split.images.shape == (2, 4, 4, 3)
    assert split.labels.tolist() == [[[1, 0, 3, 2, 2], [0, 2, 4, 4, 0]], [[0, 0, 0, 0, -1]] * 2]
    np.testing.assert_array_equal(split.images[1], IMAGES[1])  # of the size that is asked it stays as it is
    fake(monkeypatch, [record(0)])
    split = data.load("fake", task=DETECTION).train
    assert split.labels[0, 0].tolist() == [2, 0, 6, 3, 2]


def test_masks_are_cut_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, [record(0), record(1)])
    dataset = data.load("fake", image_size=4, task=SEGMENTATION).read_all()
    assert dataset.classes == 3  # which the set does not say
    assert dataset.train.images.shape == (4 + 1, 4, 4, 3)
    np.testing.assert_array_equal(dataset.train.images[0], IMAGES[0][:4, :4])
    np.testing.assert_array_equal(dataset.train.labels[3, :2], MASKS[0][4:, 4:, 0])
    assert (dataset.train.labels[3, 2:] == NONE).all()
    np.testing.assert_array_equal(dataset.train.labels[4], MASKS[1][..., 0])


ONE = {"bbox": [[0.1, 0.1, 0.5, 0.5]], "label": [1]}
BAD: list[tuple[Any, list[dict[str, Any]], str]] = [
    (DETECTION, [record(0), record(1)], r"images of several sizes \(\(4, 4, 3\), \(6, 8, 3\), ...\): name one"),
    (SEGMENTATION, [record(0), record(1)], r"images of several sizes .* --config.image_size"),
    (DETECTION, [record(1), record(1, objects=ONE | {"bbox": [[0.1, 0.2, 0.5, 1.2]]})], "record 1: box 0 is outside"),
    (
        DETECTION,
        [record(0, objects=ONE | {"bbox": [[-0.1, 0.2, 0.5, 0.6]]})],
        "record 0: box 0 is outside of the image",
    ),
    (DETECTION, [record(0, objects=ONE | {"bbox": [[0.5, 0.2, 0.5, 0.6]]})], "record 0: box 0 has no area: left 0.2"),
    (DETECTION, [record(0, objects=ONE | {"label": [1, 2]})], "record 0: it has 1 boxes and 2 classes"),
    (DETECTION, [record(0, objects=ONE | {"label": [3]})], "image 0, box 0 has a class that is none of 0 to 2"),
    (DETECTION, [record(1)], "none of 1 images has a box: there is nothing to find"),
    (DETECTION, [{"image": IMAGES[0], "mask": MASKS[0]}], "record 0 has no objects"),
    (DETECTION, [], "is empty: images with labels are needed"),
    (
        SEGMENTATION,
        [record(0, mask=MASKS[1])],
        r"record 0: its labels are of \(4, 4\) pixels, and its image of \(6, 8\)",
    ),
    (CLASSIFICATION, [record(0)], "is not one of images with class labels, which classification needs"),
]


@pytest.mark.parametrize(("task", "records", "words"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_used_is_told(
    monkeypatch: pytest.MonkeyPatch, task: Any, records: list[dict[str, Any]], words: str
) -> None:
    fake(monkeypatch, records)
    with pytest.raises(UserError, match=f"^dataset 'fake'.*{words}"):
        data.load("fake", task=task).read_all()


@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION], ids=["detection", "segmentation"])
def test_what_does_not_fit_in_memory_is_told(monkeypatch: pytest.MonkeyPatch, task: Any) -> None:
    fake(monkeypatch, [record(0)] * 4)
    monkeypatch.setattr("train.common.records.MEMORY_LIMIT", 300)
    with pytest.raises(UserError, match=r"of memory, which (detection|segmentation) holds it in: name smaller images"):
        data.load("fake", task=task).read_all()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "name", "size", "shapes", "classes"),
    [
        (DETECTION, "bccd", 160, ((205, 160, 160, 3), (72, 24, 5)), [2381, 214, 209]),
        (SEGMENTATION, "nuclei", 128, ((1807, 128, 128, 3), (200, 128, 128)), [23887396, 4120694, 108414]),
    ],
)
def test_prepared_sets_are_read(
    prepared: Path, task: Any, name: str, size: int, shapes: Any, classes: list[int]
) -> None:
    if not (prepared / name).is_dir():
        pytest.skip(f"{prepared} holds no {name}")
    dataset = data.load(name, str(prepared), size, task).read_all()
    assert (dataset.train.images.shape, dataset.test.labels.shape) == shapes
    kinds = dataset.train.labels[..., 4] if task is DETECTION else dataset.train.labels
    assert [int((kinds == kind).sum()) for kind in range(dataset.classes)] == classes
