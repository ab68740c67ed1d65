"""One process at a time has a run folder; the lock ends with its process, and the second is told whose it is."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.common import lock
from train.common.errors import UserError

ROOT = Path(__file__).parents[3]
HOLD = """
import pathlib, sys
from train.common import lock
lock.take(pathlib.Path(sys.argv[1]))
print("held", flush=True)
input()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process, which holds ``tmp_path``."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_whose_it_is_and_a_crash_frees_it(tmp_path: Path, other: subprocess.Popen) -> None:
    with pytest.raises(UserError) as caught:
        lock.take(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} is in use by process {other.pid} of user ")
    assert f" on {socket.gethostname()} since 20" in message
    assert "name another --workdir" in message
    assert message.endswith(f"delete {tmp_path / '.lock'}.")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / ".lock").exists()  # the note outlives a crash, the lock does not
    lock.take(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_end_leaves_nothing(tmp_path: Path, other: subprocess.Popen) -> None:
    other.communicate("go\n")
    assert not list(tmp_path.iterdir())


def test_a_note_that_says_nothing_is_still_a_lock(tmp_path: Path, other: subprocess.Popen) -> None:
    (tmp_path / ".lock").write_text("{")
    with pytest.raises(UserError, match="is in use by another process"):
        lock.take(tmp_path)


def test_one_process_takes_a_folder_as_often_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("of a crash")
    lock.take(tmp_path)
    lock.take(tmp_path / "." / "")
    lock.check(tmp_path)
    lock.release(tmp_path)
    lock.release(tmp_path)
    lock.check(tmp_path)  # nobody holds it, and it is there


@pytest.mark.parametrize("what", ["removed", "made anew", "taken over"])
def test_a_folder_that_is_no_longer_ours_is_not_written(tmp_path: Path, what: str) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    lock.take(workdir)
    if what == "taken over":
        (workdir / ".lock").unlink()
        (workdir / ".lock").write_text("another's")
    else:
        shutil.rmtree(workdir)
    if what == "made anew":
        workdir.mkdir()
    with pytest.raises(UserError, match=f"^{workdir} was removed, replaced, or taken over"):
        lock.check(workdir)
    lock.release(workdir)
    assert [path.read_text() for path in tmp_path.rglob(".lock")] == (["another's"] if what == "taken over" else [])


def test_a_file_system_without_locks_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock.take(tmp_path)
    assert f"warning: {tmp_path} cannot be locked" in capsys.readouterr().err
    lock.release(tmp_path)
