"""Run folders in buckets: storage in memory, failed at every write, and an emulator of Google's on loopback."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from jaxcomp.core import buckets
from tests.train.conftest import Cli, assert_same_end, finish, wait_until
from train.common import mirror
from train.common.errors import UserError, exit_status
from train.common.mirror import Mirror
from train.common.signals import Stopped
from train.common.table import Table

ADDRESS = "memory://bucket/run"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """Empty, as is what this process has opened."""
    monkeypatch.setattr(mirror, "_open", {})
    found = fsspec.filesystem("memory")
    found.store.clear()
    yield found
    found.store.clear()


def checkpoint(local: Path, step: int) -> None:
    folder = local / "checkpoints" / "student" / str(step)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "a").write_text(f"arrays {step}")
    (folder / "meta").write_text(f"meta {step}")
    (folder / "checksums.json").write_text(f"checksums {step}")


def contents(local: Path) -> dict[str, str]:
    return {path.relative_to(local).as_posix(): path.read_text() for path in local.rglob("*") if path.is_file()}


def read_anew(folder: Path) -> dict[str, str]:
    shutil.rmtree(folder, ignore_errors=True)
    Mirror(ADDRESS, folder).pull()
    return contents(folder)


def test_what_is_put_there_is_read_elsewhere(storage: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    here = mirror.folder(ADDRESS)
    assert mirror.folder(f"{ADDRESS}/") == here
    mirror.take(here)
    (here / "config.json").write_text("{}")
    (here / ".lock").write_text("mine")
    (here / "checkpoints" / "student" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    (here / "checkpoints" / "student" / "7.orbax-checkpoint-tmp" / "x").write_text("torn")
    checkpoint(here, 4)
    mirror.push(here)
    assert set(read_anew(tmp_path / "b")) == {"config.json"} | {
        f"checkpoints/student/4/{name}" for name in ("state/a", "meta", "checksums.json")
    }
    (here / "config.json").unlink()
    mirror.push_all()
    assert "config.json" not in read_anew(tmp_path / "b")
    assert mirror.shown(f"{here}/model.jcz is damaged") == f"{ADDRESS}/model.jcz is damaged"
    assert mirror.folder(tmp_path) == tmp_path


def test_a_kill_at_any_write_leaves_old_or_new(
    storage: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step from one checkpoint to the next, cut off after each number of writes and deletions."""
    whole = []
    for most in range(12):
        storage.store.clear()
        one = Mirror(ADDRESS, tmp_path / f"run{most}")
        one.pull()
        one.take()
        (one.local / "metrics.jsonl").write_text("old")
        checkpoint(one.local, 4)
        one.push()
        (one.local / "metrics.jsonl").write_text("new one")
        checkpoint(one.local, 8)
        shutil.rmtree(one.local / "checkpoints" / "student" / "4")
        left = [most]

        def counted(do: Callable, left: list[int] = left) -> Callable:
            def call(*args: object) -> None:
                if not left[0]:
                    raise KeyboardInterrupt  # as a kill: nothing is tidied up
                left[0] -= 1
                do(*args)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(buckets, "write", counted(buckets.write))
            patch.setattr(buckets, "remove", counted(buckets.remove))
            try:
                one.push()
                whole.append(most)
            except KeyboardInterrupt:
                pass
        found = read_anew(tmp_path / "anew")
        assert found.pop("metrics.jsonl") in ("old", "new one")
        steps = {name.split("/")[2] for name in found}
        assert steps in ({"4"}, {"4", "8"}, {"8"})
        for step in steps:
            assert found[f"checkpoints/student/{step}/state/a"] == f"arrays {step}"
            assert found[f"checkpoints/student/{step}/meta"] == f"meta {step}"
    assert whole[0] == 7  # four files, three deletions
    assert steps == {"8"}


def test_who_comes_last_has_the_folder(
    storage: fsspec.AbstractFileSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Mirror(ADDRESS, tmp_path / "a"), Mirror(ADDRESS, tmp_path / "b")
    for each in (first, second):
        each.pull()
        each.take()
    assert "was held by process" in capsys.readouterr().err
    (first.local / "x").write_text("mine")
    with pytest.raises(UserError, match=f"^{ADDRESS} was taken over by another process"):
        first.push()
    second.push()
    assert buckets.sizes(ADDRESS).keys() == {mirror.NOTE}


def test_data_are_read_once(
    storage: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "memory://bucket/tfds")
    for name in ("mnist", "other"):
        buckets.write(f"memory://bucket/tfds/{name}/1.0.0/a", name.encode())
    found = mirror.data_folder(None, "mnist")
    assert found is not None
    assert contents(Path(found)) == {"mnist/1.0.0/a": "mnist"}
    with monkeypatch.context() as patched:
        patched.setattr(buckets, "read", lambda address: pytest.fail(f"{address} was read again"))
        assert mirror.data_folder("memory://bucket/tfds/", "mnist") == found
        assert mirror.copied("memory://bucket/tfds/mnist") == f"{found}/mnist"
    buckets.write("memory://bucket/tfds/mnist/1.0.0/a", b"MNIST")  # of the same size
    assert mirror.data_folder(None, "mnist") == found
    assert contents(Path(found)) == {"mnist/1.0.0/a": "MNIST"}
    buckets.write("memory://bucket/tfds/mnist/2.0.0/a", b"")
    buckets.remove("memory://bucket/tfds/mnist/1.0.0/a")
    mirror.copied("memory://bucket/tfds/mnist")
    assert [path.name for path in Path(found, "mnist").iterdir()] == ["2.0.0"]  # nor is a folder left
    with pytest.raises(UserError, match="memory://bucket/tfds/svhn: there is nothing"):
        mirror.copied("memory://bucket/tfds/svhn")
    assert mirror.data_folder("/data", "mnist") == "/data"
    assert mirror.copied("./birds") == "./birds"
    for path, same in (("gs://b/tfds", "gs://b/tfds"), ("tfds", str(Path.cwd() / "tfds"))):
        assert mirror.absolute(path) == same  # as it is handed to another process
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert mirror.data_folder(None, "mnist") is None


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x"])
def test_no_name_leads_out_of_the_copy(
    storage: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(buckets, "listed", lambda address: {name: buckets.Listed(1, "")})
    with pytest.raises(UserError, match=f"{ADDRESS} holds '{name}', which leads out of the folder"):
        Mirror(ADDRESS, tmp_path / "copy").pull()


@pytest.mark.parametrize("end", [None, KeyboardInterrupt(), Stopped("stopped"), UserError("no")])
def test_however_a_script_ends_the_bucket_has_what_it_wrote(
    storage: fsspec.AbstractFileSystem, end: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    here = mirror.folder(ADDRESS)

    def job() -> None:
        mirror.take(here)
        Table(here, str).row(dict, a=1)
        assert "summary.json" in buckets.sizes(ADDRESS)  # at once: a kill may come next
        (here / "labels").mkdir()
        (here / "labels" / "part").write_text("1")
        mirror.push(here / "labels")
        assert "labels/part" in buckets.sizes(ADDRESS)
        (here / "small.jcz").write_text("1")
        if end:
            raise end

    exit_status(job)
    assert "small.jcz" in buckets.sizes(ADDRESS)

    def torn() -> None:
        mirror.take(here)
        buckets.remove(f"{ADDRESS}/{mirror.NOTE}")
        raise UserError("no such thing")

    capsys.readouterr()
    assert exit_status(torn) == 1
    note, own = capsys.readouterr().err.splitlines()[-2:]  # of two failures both are told
    assert note.startswith(f"note: {ADDRESS} was taken over")
    assert own == "error: no such thing"


@pytest.mark.filterwarnings("ignore:Sending a large body directly")
def test_googles_storage_serves_as_well(google: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_open", {})
    here = mirror.folder(f"{google}/runs/a")
    mirror.take(here)
    checkpoint(here, 4)
    (here / "large").write_bytes(bytes(6 * 2**20))  # beyond what goes in one request
    mirror.push(here)
    other = Mirror(f"{google}/runs/a", tmp_path / "other")
    other.pull()
    assert (other.local / "large").stat().st_size == 6 * 2**20
    (other.local / "large").unlink()
    (here / "large").unlink()
    assert contents(other.local) == {name: text for name, text in contents(here).items() if name != mirror.NOTE}
    mirror.push(here)
    assert "large" not in buckets.sizes(f"{google}/runs/a")
    assert json.loads(buckets.read(f"{google}/runs/a/{mirror.NOTE}"))["token"]
    with pytest.raises(OSError, match="gs://nowhere/x"):
        buckets.write("gs://nowhere/x", b"1")


@pytest.mark.exhaustive
def test_a_run_in_a_bucket_ends_as_any_other(
    google: str, cli: Cli, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once, and gone on with by a process that has nothing but the bucket."""
    workdir = f"--workdir={google}/runs/b"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed = cli.start(workdir)
    wait_until(killed, lambda: any("checkpoints/student" in name for name in buckets.sizes(f"{google}/runs/b")))
    killed.kill()
    finish(killed)
    ended = cli(workdir)
    assert ended.returncode == 0, ended.stderr
    assert f"see {google}/runs/b/report.html" in ended.stdout
    Mirror(f"{google}/runs/b", tmp_path / "copy").pull()
    assert_same_end(tmp_path / "copy", reference)
    again = cli(workdir)
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    assert not Path("gs:").exists()
