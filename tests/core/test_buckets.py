"""Files in a bucket, which fsspec's storage in memory plays: artifacts go there and come back, and errors name them."""

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations

import jaxcomp as jc
from jaxcomp.core import buckets, files
from jaxcomp.core.errors import ArgumentError, MissingExtraError

PARAMS = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.fixture
def bucket() -> Iterator[str]:
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    yield "memory://bucket/run"
    storage.store.clear()


def test_files_go_there_and_come_back(bucket: str) -> None:
    files.write_atomically(f"{bucket}/a", b"old")
    files.write_atomically(f"{bucket}/a", [b"n", b"ew"])
    files.write_atomically(PurePosixPath(f"{bucket}/deep/b"), b"22")  # pathlib has taken a slash of it
    assert files.read(f"{bucket}/a") == b"new"
    assert buckets.sizes(bucket) == {"a": 3, "deep/b": 2}
    for _ in range(2):
        buckets.remove(f"{bucket}/a")
    assert buckets.sizes(bucket) == {"deep/b": 2}
    assert buckets.sizes(f"{bucket}/nowhere") == {}


def test_a_file_system_shows_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its addresses keep their three slashes, and what is cut off leaves the old file."""
    files.write_atomically(f"file://{tmp_path}/a", b"old")
    assert (tmp_path / "a").read_bytes() == b"old"
    with monkeypatch.context() as patched:
        patched.setattr(fsspec.filesystem("file"), "mv", lambda *_: 1 / 0)
        with pytest.raises(OSError, match="cannot be used"):
            files.write_atomically(f"file://{tmp_path}/a", b"new")
    assert files.read(PurePosixPath(f"file://{tmp_path}/a")) == b"old"


def test_what_gcsfs_warns_of_at_every_use_is_said_once(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """A run that pushes its folder for days would fill its log with one sentence."""
    for number in range(3):
        buckets.write(f"{bucket}/{number}", b"")
        logging.getLogger("gcsfs").warning("upload %d: the type of the bucket is unknown", number)
        logging.getLogger("gcsfs").error("upload %d failed", number)
    said = [record.getMessage() for record in caplog.records]
    failed = [f"upload {number} failed" for number in range(3)]
    assert said == ["upload 0: the type of the bucket is unknown", *failed]


def test_folders_that_storage_lists_are_no_files(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's console and FUSE make an empty object for one, its name with a slash at the end."""
    marks: dict[str, Any] = {f"/bucket/run/{name}": {"size": 0} for name in ("", "deep/")}
    marks["/bucket/run/x"] = {"size": 0, "type": "directory"}
    file = {"size": 3, "type": "file", "generation": 7, "etag": "x"}
    found = {**marks, "/bucket/run/deep/a": file}
    monkeypatch.setattr(fsspec.filesystem("memory"), "find", lambda path, detail: found)
    assert buckets.listed(bucket) == {"deep/a": (3, "7")}
    assert buckets.sizes(bucket) == {"deep/a": 3}


def test_artifacts_go_there_and_come_back(bucket: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    for place in (bucket, str(tmp_path)):
        size = jc.pack.save(f"{place}/x.jcz", PARAMS, metadata={"a": 1})
        jc.export.safetensors(f"{place}/x.safetensors", PARAMS)
    assert size == len(files.read(f"{bucket}/x.jcz"))
    for name in ("x.jcz", "x.safetensors"):
        assert files.read(f"{bucket}/{name}") == (tmp_path / name).read_bytes()
    loaded, metadata = jc.pack.load(f"{bucket}/x.jcz")
    np.testing.assert_array_equal(loaded["kernel"], PARAMS["kernel"])
    assert metadata == {"a": 1}
    held = jc.export.load_safetensors(f"{bucket}/x.safetensors").params
    np.testing.assert_array_equal(held["kernel"], PARAMS["kernel"])


def test_mistakes_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/run/x: there is no such file"):
        jc.pack.load(f"{bucket}/x")
    with pytest.raises(ArgumentError, match=r"floppy://a/x: needs to be a path, or an address"):
        jc.pack.save("floppy://a/x", PARAMS)
    absent = {"class": "a_client_that_is_not_there.Storage", "err": "install it"}
    monkeypatch.setitem(known_implementations, "s3", absent)
    with pytest.raises(MissingExtraError, match=r"s3://b/x.jcz needs .*: pip install fsspec s3fs"):
        jc.pack.save("s3://b/x.jcz", PARAMS)
    assert not Path("s3:").exists()
    storage = fsspec.filesystem("memory")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("403: you may not")

    monkeypatch.setattr(storage, "pipe_file", refuse)
    with pytest.raises(OSError, match=r"run/x.jcz cannot be used \(PermissionError: 403: you may not\): see that"):
        jc.pack.save(f"{bucket}/x.jcz", PARAMS)
