"""Data that cannot be learned from, or cannot be read, is refused at the start: with split, record, label or file."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.common import data
from train.common.data import Dataset, Split
from train.common.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 4, 4, 1), np.uint8)


def dataset(train: Sequence[int], test: Sequence[int] = (0, 1, 2), images: np.ndarray = IMAGES) -> Dataset:
    """Three classes; the images of both splits are the first of those given."""
    labels = {"train": np.array(train, np.int32), "test": np.array(test, np.int32)}
    return Dataset("mine", 3, lambda split: Split(images[: len(labels[split])], labels[split]))


@pytest.mark.parametrize("wrong", [-1, -100, 3, 2**31 - 1])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_that_is_no_class_is_refused(split: str, wrong: int) -> None:
    labels = [0, 1, 2, 1, wrong, 0, wrong]
    own = dataset(labels) if split == "train" else dataset([0, 1, 2] * 20, labels)
    with pytest.raises(UserError) as caught:
        own.read_all()
    words = (
        f"dataset 'mine', split '{split}': record 4 has the label {wrong}, and labels go from 0 to 2 (2 of 7 records"
    )
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (dataset([1] * 40), "split 'train': the label of all 40 images is the same: there is nothing to tell apart"),
        (dataset([]), "split 'train' is empty"),
        (dataset([0, 1, 2] * 20, []), "split 'test' is empty"),
        (dataset([0, 1, 2], images=IMAGES.astype(np.uint16)), "uint16 images of shape (4, 4, 1): uint8"),
        (dataset([0, 1, 2], images=IMAGES[..., 0]), "uint8 images of shape (4, 4): uint8 and [h, w, c]"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(own: Dataset, words: str) -> None:
    with pytest.raises(UserError) as caught:
        own.read_all()
    assert str(caught.value).startswith("dataset 'mine', ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (dataset([0, 1, 2] * 20, images=np.full_like(IMAGES, 7)), "all 60 images are the same: there is nothing to"),
        (dataset([0, 2] * 30), "no image is of class 1 (of 3 classes), so none will be recognized"),
        (dataset([0, 1]), "2 images for 3 classes are few"),
        (dataset([0, 1, 2] * 20, [2, 2]), "split 'test': the label of all 2 images is the same"),
    ],
)
def test_what_teaches_little_is_said(own: Dataset, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    own.read_all()
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert all(line.startswith("warning: dataset 'mine', split ") for line in err.splitlines())


def test_splits_are_of_one_kind_of_image_and_sound_ones_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    data.load("digits").read_all()
    assert capsys.readouterr() == ("", "")
    labels = np.arange(60, dtype=np.int32) % 3
    mixed = Dataset("mine", 3, lambda split: Split(IMAGES if split == "train" else IMAGES[:, :3], labels))
    with pytest.raises(UserError, match=r"images of \(4, 4, 1\) for training and of \(3, 4, 1\) for testing"):
        mixed.read_all()


def test_a_digest_tells_any_change() -> None:
    labels = [0, 1, 2] * 20
    changed = IMAGES.copy()
    changed[-1, -1, -1] ^= 1
    alike = [dataset(labels), dataset(labels)]
    others = [dataset(labels, [0, 1, 1]), dataset(labels[1:]), dataset(labels, images=changed)]
    assert alike[0].digest == alike[1].digest
    assert len({own.digest for own in (alike[0], *others)}) == 4


# TensorFlow Datasets on disk


def record(image: Any = None, label: int | None = 0) -> bytes:
    """A record of an image, encoded already or not, and a label."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    if not isinstance(image, bytes):
        out = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (4, 4), np.uint8) if image is None else image).save(out, "PNG")
        image = out.getvalue()
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    if label is not None:
        example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()


def prepare(root: Path, splits: dict[str, list[list[bytes]]], dtype: str = "uint8") -> Path:
    """Writes a data set, ``small``, of three classes: each split a list of shards, each a list of records."""
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    folder = root / "small" / "1.0.0"
    folder.mkdir(parents=True)
    about = []
    for split, shards in splits.items():
        for i, records in enumerate(shards):
            file = writer(str(folder / f"small-{split}.array_record-{i:05d}-of-{len(shards):05d}"), "group_size:1")
            for content in records:
                file.write(content)
            file.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(len(shard)) for shard in shards]
        about.append({"filepathTemplate": template, "name": split, "numBytes": "1", "shardLengths": lengths})
    of = "tensorflow_datasets.core.features."
    image = {"image": {"dtype": dtype, "shape": {"dimensions": ["4", "4", "1"]}}}
    features = {
        "image": image | {"pythonClassName": of + "image_feature.Image"},
        "label": {"classLabel": {"numClasses": "3"}, "pythonClassName": of + "class_label_feature.ClassLabel"},
    }
    whole = {"featuresDict": {"features": features}, "pythonClassName": of + "features_dict.FeaturesDict"}
    (folder / "features.json").write_text(json.dumps(whole))
    items = [{"featureKey": "image"}, {"featureKey": "label"}]
    info = {"name": "small", "version": "1.0.0", "fileFormat": "array_record", "splits": about}
    info |= {"moduleName": "__main__", "supervisedKeys": {"tuple": {"items": items}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def records(n: int) -> list[bytes]:
    return [record(label=i % 3) for i in range(n)]


def read(root: Path) -> Dataset:
    return data.load("small", str(root)).read_all()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The folder of a set that is sound."""
    return prepare(tmp_path, {"train": [records(20), records(20)], "test": [records(12)]})


def test_a_set_of_shards_is_read_in_order(small: Path) -> None:
    own = read(small.parents[1])
    assert (len(own.train), len(own.test), own.train.images.shape) == (40, 12, (40, 4, 4, 1))
    assert own.train.labels.tolist() == [i % 3 for i in range(20)] * 2
    assert own.digest == read(small.parents[1]).digest


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


SHARDS = {"train": "small-train.array_record-00001-of-00002", "test": "small-test.array_record-00000-of-00001"}
SPOILT: dict[str, Callable[[Path], Any]] = {
    "cut short": cut,
    "almost empty": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(RNG.bytes(70_000)),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("split", SHARDS)
@pytest.mark.parametrize("damage", SPOILT)
def test_a_shard_that_cannot_be_read_is_named(small: Path, split: str, damage: str) -> None:
    SPOILT[damage](small / SHARDS[split])
    with pytest.raises(UserError) as caught:
        read(small.parents[1])
    message = str(caught.value)
    assert message.startswith(f"dataset 'small', split '{split}': {small / SHARDS[split]} cannot be read (")
    assert message.endswith("): prepare it anew, with tfds build --overwrite, or copy its folder again")


@pytest.mark.parametrize("declared", ["25", "10"])
def test_another_number_of_records_than_declared(small: Path, declared: str) -> None:
    info = json.loads((small / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["20", declared]
    (small / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=f"{SHARDS['train']} is to hold {declared} records and holds 20"):
        read(small.parents[1])


BAD: dict[str, tuple[bytes, str]] = {
    "no image": (record(b"no image", 1), "record 2 cannot be read (UnidentifiedImageError"),
    "a torn image": (record(b"\x89PNG\r\n", 1), "record 2 cannot be read (UnidentifiedImageError"),
    "no record": (b"\xff\x00garbage", "record 2 cannot be read (DecodeError"),
    "no label": (record(label=None), "record 2 has no label"),
    "a label": (record(label=-1), "record 2 has the label -1, and labels go from 0 to 2 (1 of 3 records"),
    "a large label": (record(label=2**40), f"record 2 has the label {2**40}, and labels go"),
    "16 bits": (record(np.zeros((4, 4), np.uint16)), "record 2 is a PNG of 16 bits a channel: 8 are needed"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_record_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    content, words = BAD[what]
    prepare(tmp_path, {"train": [records(40)], "test": [[*records(2), content]]})
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"dataset 'small', split 'test': {words}")


def test_what_a_set_says_of_itself_is_believed(tmp_path: Path) -> None:
    prepare(tmp_path / "a", {"train": [records(9)], "test": [records(3)]}, dtype="uint16")
    with pytest.raises(UserError, match="dataset 'small' has uint16 images: uint8 is needed"):
        read(tmp_path / "a")
    for split in ("train", "test"):
        prepare(tmp_path / split, {"train": [records(9)], "test": [records(3)]} | {split: [[]]})
        with pytest.raises(UserError, match=f"^dataset 'small', split '{split}' is empty"):
            read(tmp_path / split)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_set_whose_description_is_damaged(small: Path, file: str, content: str | None) -> None:
    (small / file).unlink() if content is None else (small / file).write_text(content)
    with pytest.raises(UserError, match=f"dataset 'small' in {small.parent} cannot be used, as it is damaged, or"):
        read(small.parents[1])
