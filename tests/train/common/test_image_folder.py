"""Folders of images and array_record files are read as what they are, and what is wrong with them is told."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxcomp.core import buckets
from tests.train.common.pictures import class_folders, encoded
from train import prepare
from train.common import data, records
from train.common.errors import UserError
from train.tasks.classification import squared
from train.tasks.detection import DETECTION

COUNTS = {"train/cat": 12, "train/dog": 13, "test/cat": 2, "test/dog": 3}


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def example(label: Any = 1, key: str = "image", file: bytes | None = None) -> bytes:
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    own = proto.Example()
    own.features.feature[key].bytes_list.value.append(encoded(0, suffix="png") if file is None else file)
    if label is not None:
        own.features.feature["label"].int64_list.value.append(label)
    return own.SerializeToString()


def write(path: Path, examples: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for own in examples:
        writer.write(own)
    writer.close()


def test_class_folders_are_a_data_set(tmp_path: Path) -> None:
    test, train = (class_folders(tmp_path, {k: n for k, n in COUNTS.items() if k < "tr"}), [])
    train = class_folders(tmp_path, {k: n for k, n in COUNTS.items() if k > "tr"})
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    found = data.load(str(tmp_path), image_size=8).read_all()
    assert found.classes == 2
    for split, files, labels in ((found.train, train, [0] * 12 + [1] * 13), (found.test, test, [0] * 2 + [1] * 3)):
        assert split.labels.tolist() == labels
        assert isinstance(split.images, np.ndarray)
        np.testing.assert_array_equal(split.images, [squared(pixels(file), 8) for file in files])
    digest = data.load(str(tmp_path), image_size=8).digest
    (tmp_path / "train" / "cat" / "000.png").write_bytes(encoded(99))
    assert data.load(str(tmp_path), image_size=8).digest != digest == found.digest


def test_every_tenth_image_tests_where_there_is_no_split(tmp_path: Path) -> None:
    files = class_folders(tmp_path, {"a": 11, "b": 20})
    found = data.load(str(tmp_path), image_size=8)
    held = [9, 11 + 9, 11 + 19]
    assert found.test.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.test.images, [squared(pixels(files[n]), 8) for n in held])
    assert len(found.train) == 28


def test_records_are_a_data_set(tmp_path: Path) -> None:
    files = [encoded(n, 9, 9, "png", gray=True) for n in range(40)]
    split = {"train-0-of-2": files[:20], "train-1-of-2": files[20:34], "val": files[34:]}
    for name, own in split.items():
        key = "image" if name == "val" else "image/encoded"
        write(tmp_path / f"{name}.array_record", [example(n % 3, key, file) for n, file in enumerate(own)])
    found = data.load(str(tmp_path)).read_all()
    assert (found.classes, found.train.images.shape, found.test.images.shape) == (3, (34, 9, 9, 1), (6, 9, 9, 1))
    np.testing.assert_array_equal(found.train.images[..., 0], [pixels(file) for file in files[:34]])
    assert found.train.labels.tolist() == [n % 3 for n in range(20)] + [n % 3 for n in range(14)]
    with pytest.raises(UserError, match="a folder has a class for each image, and detection needs"):
        data.load(str(tmp_path), task=DETECTION)


def _records(root: Path, *examples: bytes) -> None:
    for name in ("train.array_record", "test.array_record"):
        write(root / name, list(examples))


WRONG: list[tuple[Callable[[Path], Any], str]] = [
    (lambda root: root.rmdir(), "there is no such folder; it would hold FOLDER/train/CLASS/IMAGE"),
    (lambda root: None, "has no folders of classes, it holds nothing; needed is FOLDER/train"),
    (lambda root: (root / "a.png").write_text(""), "has no folders of classes, it holds a.png"),
    (lambda root: class_folders(root, {"train/a": 1}), "a folder train and none of test, validation, val"),
    (lambda root: class_folders(root, {"train/a": 1, "val/b": 1}), "val has classes that train has not: b"),
    (lambda root: class_folders(root, {"train/a": 0, "val/a": 1}), "split 'train' is empty: images with labels"),
    (lambda root: class_folders(root, {"a": 12, "b": 12}), r"images of several sizes \(\(16, 20, 3\).*image_size=224"),
    (lambda root: write(root / "train.array_record", [example()]), "no files of test or validation or val"),
    (lambda root: _records(root, b"\xff\xff"), "record 0 is no tf.train.Example"),
    (lambda root: _records(root, example(), example(None)), "record 1 needs a whole number as label or image/class"),
    (lambda root: _records(root, example(), example(key="jpg")), "record 1 needs the bytes of an image as image or"),
    (lambda root: _records(root, example(), example(-1)), "record 1 has the label -1, and labels go from 0 to 1"),
    (
        lambda root: write(root / "train-0-of-2.array_record", [example()] * 2),
        "train' has 1 files, and .* sets of 2: give",
    ),
    (
        lambda root: [write(root / f"train.array_record-0-of-{n}", [example()]) for n in (1, 2)],
        "has 2 files.* 1 and 2:",
    ),
    (lambda root: (root / "train.array_record").write_bytes(b"torn" * 9), "split 'train' cannot be read"),
]


@pytest.mark.parametrize(("make", "words"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_used_is_told(tmp_path: Path, make: Callable[[Path], Any], words: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    with pytest.raises(UserError, match=f"^dataset '{root}'.*{words}"):
        data.load(str(root)).read_all()


@pytest.mark.parametrize("side", [0, 10])
def test_folders_become_records_of_the_same_images(tmp_path: Path, side: int) -> None:
    class_folders(tmp_path / "set", {"a": 12, "b": 11})
    torn = tmp_path / "set" / "b" / "003.png"
    torn.write_bytes(torn.read_bytes()[:50])
    with pytest.raises(UserError, match=r"003\.png cannot be read .* give --corrupt skip"):
        prepare.prepare(tmp_path / "set", tmp_path / "stop", side, 2, "stop")
    assert not list((tmp_path / "stop").glob(".*"))  # nothing torn is left
    test = tmp_path / "set" / "a" / "009.png"
    sound = test.read_bytes()
    test.write_text("no image")
    with pytest.raises(UserError, match=r"009\.png cannot be read .* all that is scored must be sound"):
        prepare.prepare(tmp_path / "set", tmp_path / "torn", side, 2, "skip")
    test.write_bytes(sound)
    held = prepare.prepare(tmp_path / "set", tmp_path / "new", side, 2, "skip")
    assert prepare.prepare(tmp_path / "set", tmp_path / "stop", side, 2, "skip") == held  # goes on
    assert held == {"train": 20, "test": 2}
    assert (tmp_path / "new" / "classes.txt").read_text() == "a\nb\n"
    one, other = (data.load(str(tmp_path / name), image_size=8, corrupt="skip") for name in ("set", "new"))
    for mine, theirs in ((one.train, other.train), (one.test, other.test)):
        assert np.bincount(mine.labels).tolist() == np.bincount(theirs.labels).tolist()
        if side:  # smaller, and JPEG
            assert abs(mine.images.mean() - theirs.images.mean()) < 3
        else:
            assert {image.tobytes() for image in mine.images} == {image.tobytes() for image in theirs.images}


@pytest.mark.parametrize("gray", [True, False])
def test_smaller_images_have_the_channels_of_the_large(gray: bool) -> None:
    small = pixels(prepare.smaller(encoded(0, gray=gray), 12))
    assert small.shape == ((12, 16) if gray else (12, 16, 3))


def test_what_was_prepared_otherwise_is_not_gone_on_with(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", {"a": 12, "b": 11})
    first = (tmp_path / "set", tmp_path / "new", 0, 11, "skip")
    prepare.prepare(*first)
    for at, other, words in (
        (2, 8, "side: 0 there, 8 now"),
        (3, 2, "shards: 11 there"),
        (4, "stop", "corrupt: 'skip' t"),
    ):
        with pytest.raises(UserError, match=f"new holds files that were made otherwise:\n  {words}"):
            prepare.prepare(*(other if number == at else own for number, own in enumerate(first)))
    (tmp_path / "new" / "test-00001-of-00002.array_record").unlink()  # as a kill leaves it
    with pytest.raises(UserError, match="split 'test' has 1 files, and their names are of sets of 2"):
        data.load(str(tmp_path / "new"), image_size=8)
    prepare.prepare(*first)
    assert len(data.load(str(tmp_path / "new"), image_size=8).test) == 2
    (tmp_path / "set" / "a" / "000.png").write_bytes(encoded(99))
    with pytest.raises(UserError, match=r"otherwise:\n  images: '\w+' there"):
        prepare.prepare(*first)


def test_a_set_in_a_bucket_is_read_from_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    class_folders(tmp_path / "set", {"a": 12, "b": 12})
    for file in (tmp_path / "set").rglob("*.png"):
        buckets.write(f"memory://bucket/sets/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    there, here = (data.load(name, image_size=8) for name in ("memory://bucket/sets/set", str(tmp_path / "set")))
    assert there.digest == here.digest
    np.testing.assert_array_equal(there.test.images, here.test.images)


@pytest.mark.parametrize("limit", [0, 2**20], ids=["on disk", "in memory"])
def test_torn_images_stop_or_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    monkeypatch.setattr(records, "MEMORY_LIMIT", limit)
    files = class_folders(tmp_path, {"train/a": 15, "train/b": 15, "val/a": 2, "val/b": 2}, "jpeg")
    torn = tmp_path / "train" / "b" / "003.jpeg"
    torn.write_bytes(torn.read_bytes()[:-300])
    (tmp_path / "train" / "b" / "005.jpeg").write_text("no image")

    def batches(corrupt: str) -> list[dict[str, np.ndarray]]:
        split = data.load(str(tmp_path), image_size=8, corrupt=corrupt).train
        return [data.fill(data.train_batch(split, n, 7, 0, shift=0, flip=False), 8) for n in range(4)]

    with pytest.raises(UserError, match=r"(003|005)\.jpeg cannot be read .* --config.corrupt=skip leaves out"):
        batches("stop")
    shown = batches("skip")
    assert all(batch["valid"][-1] == 0 for batch in shown)  # what was filled up
    labels, valid = (np.concatenate([batch[key][:7] for batch in shown]) for key in ("label", "valid"))
    images = np.concatenate([batch["image"][:7] for batch in shown])
    assert len(valid) == 28
    assert (valid == 0).sum() == (0 if limit else 28 - len({*np.flatnonzero(images.any((1, 2, 3)))}))
    sound = {squared(pixels(file), 8).tobytes() for n, file in enumerate(files[:30]) if n not in (18, 20)}
    assert {image.tobytes() for image, own in zip(images, valid, strict=True) if own} <= sound
    assert set(labels) == {0, 1}
    assert "005.jpeg cannot be read" in capsys.readouterr().err
    (tmp_path / "val" / "a" / "000.jpeg").write_text("no image")
    with pytest.raises(UserError, match=r"000\.jpeg cannot be read"):  # what is scored is whole
        _ = data.load(str(tmp_path), image_size=8, corrupt="skip").test.images[:]
