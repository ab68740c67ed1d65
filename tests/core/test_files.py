"""Files are replaced whole, and stay as private, as owned and as linked as they were; a failure names its file."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxcomp.core.errors import ArgumentError
from jaxcomp.core.files import naming, write_atomically


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o600, 0o640, 0o444, 0o755, 0o666])
def test_a_file_keeps_its_permissions(tmp_path: Path, wanted: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(wanted)
    write_atomically(path, b"new")
    assert (mode(path), path.read_bytes()) == (wanted, b"new")


def test_a_private_file_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "x", []
    path.write_bytes(b"old")
    path.chmod(0o600)
    plain = os.open
    monkeypatch.setattr(os, "open", lambda *args, **kw: seen.append(args) or plain(*args, **kw))
    write_atomically(path, b"new")
    assert [given for _, _, given in seen] == [0o600]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    write_atomically(tmp_path / "x", b"new")
    assert mode(tmp_path / "x") == mode(tmp_path / "other")


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_one(tmp_path: Path, there: bool) -> None:
    (tmp_path / "runs").mkdir()
    target, link = tmp_path / "runs" / "7", tmp_path / "latest"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(Path("runs") / "7")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo") or os.geteuid() != 0, reason="needs pipes, and root to give files away")
def test_owners_stay_and_pipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    write_atomically(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match=r"pipe: needs to be a file"):
        write_atomically(tmp_path / "pipe", b"new")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is a folder"):
        write_atomically(tmp_path, b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system lets no file grow beyond 1,000 bytes: the limit ends as a full disk does."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "note.txt"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="what stood there before is as it was: free some space") as caught:
        write_atomically(path, b"new" * 1000)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_any_failure_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"Input/output error: '{tmp_path / 'note.txt'}'"):
        write_atomically(tmp_path / "note.txt", b"new")
    with pytest.raises(OSError, match="mine"), naming("mine", "; kept"):
        fail()
    assert not list(tmp_path.iterdir())
