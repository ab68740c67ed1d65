"""Labels of large sets are read once, and again when anything has changed."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from tests.train.common.pictures import encoded
from tests.train.common.test_image_folder import example, write
from train.common import data, image_folder, known


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "LEAST", 1)
    return tmp_path / "cache" / "jaxcomp" / "labels"


def records(folder: Path) -> Path:
    folder.mkdir()
    for split, count in (("train", 6), ("test", 3)):
        write(folder / f"{split}.array_record", [example(n % 2, file=encoded(n, 4, 4, "png")) for n in range(count)])
    return folder


def test_a_second_run_reads_no_record_for_its_label(tmp_path, monkeypatch):
    folder = records(tmp_path / "set")
    first = data.load(str(folder)).read_all()
    asked, get = [], image_folder._example
    monkeypatch.setattr(image_folder, "_example", lambda *args: asked.append(args[1]) or get(*args))
    again = data.load(str(folder)).read_all()
    assert image_folder.LABEL_KEYS not in asked
    assert image_folder.IMAGE_KEYS in asked
    assert again.digest == first.digest
    for split, own in ((again.train, first.train), (again.test, first.test)):
        np.testing.assert_array_equal(split.labels, own.labels)
        assert split.labels.dtype == own.labels.dtype
    os.utime(folder / "test.array_record", ns=(0, 1))
    assert data.load(str(folder)).read_all().digest == first.digest
    assert asked.count(image_folder.LABEL_KEYS) == 3  # of the split that was touched


def test_what_is_kept_is_whole_or_read_anew(tmp_path, own_cache):
    file, answers = tmp_path / "file", itertools.count()
    file.write_bytes(b"x" * 9)

    def ask(about="label", dtype=np.int64):
        labels, digest = known.labels("it", [file], about, lambda: (np.arange(7, dtype=dtype), str(next(answers))))
        np.testing.assert_array_equal(labels, np.arange(7))
        assert labels.dtype == dtype
        labels[0] = 1  # it is the caller's own
        return digest

    assert [ask(), ask(), ask("class", np.int32), ask("class", np.int32), ask()] == ["0", "0", "1", "1", "0"]
    kept = sorted(own_cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)[0]
    whole, answer = kept.read_bytes(), 2
    for at in range(0, len(whole), 11):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            kept.write_bytes(damaged)
            assert ask() == str(answer)
            answer += 1
    file.write_bytes(b"x" * 8)
    assert ask() == str(answer)


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, own_cache, capsys):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("in its place")
    read = lambda: (np.zeros(1, np.int64), "digest")  # noqa: E731
    assert [known.labels("it", [file], "label", read)[1] for _ in range(2)] == ["digest"] * 2
    assert "cannot be written" in capsys.readouterr().err
    assert known.labels("it", [tmp_path / "elsewhere"], "label", read)[1] == "digest"
