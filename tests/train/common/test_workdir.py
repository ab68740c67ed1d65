"""A run folder answers before JAX starts: finished, of another configuration, in use, or damaged."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from train.common import command_line, lock, outcome, sealed
from train.common.errors import UserError
from train.common.workdir import (
    check_checkpoint,
    check_settings,
    finished,
    open_existing,
    sealing,
    settings,
    write_checksums,
)

ROOT = Path(__file__).parents[3]
SUMMARY = {"dataset": "digits", "seed": 0, "teacher_accuracy": 0.98, "compressed_accuracy": 0.97, "sparsity": 0.94}
SUMMARY |= {"teacher_bytes": 400_000, "compressed_bytes": 10_000, "ratio": 40.0}
OURS: dict[str, Any] = {"seed": 0, "student": {"bits": 8}}


def run_folder(workdir: Path, ours: dict[str, Any]) -> Path:
    """What a finished job leaves, with small files in place of its large ones."""
    workdir.mkdir()
    sealed.write(workdir / "config.json", ours)
    (workdir / "metrics.jsonl").write_text("".join(sealed.line({"phase": "teacher", "step": n}) for n in (4, 8)))
    (workdir / "model.jcz").write_bytes(b"an artifact")
    (workdir / "report.html").write_text("<html></html>")
    for phase, step in (("teacher", 4), ("teacher", 8), ("student", 6)):
        checkpoint = workdir / "checkpoints" / phase / str(step)
        (checkpoint / "meta").mkdir(parents=True)
        (checkpoint / "meta" / "metadata").write_text('{"seconds": 2.5}')
        write_checksums(checkpoint)
    sealed.write(workdir / "summary.json", SUMMARY | sealing(workdir))
    return workdir


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[Path]:
    yield run_folder(tmp_path / "run", OURS)
    lock.release(tmp_path / "run")


def counted(workdir: Path) -> list[Path]:
    """The files that the answer of a finished run rests on."""
    last = [workdir / "checkpoints" / name for name in ("teacher/8", "student/6")]
    return [
        *(path for path in workdir.iterdir() if path.is_file()),
        *(path for folder in last for path in folder.rglob("*") if path.is_file()),
    ]


def test_a_finished_run_is_known(workdir: Path) -> None:
    found = finished(workdir, OURS)
    assert found is not None
    assert found.items() >= SUMMARY.items()
    assert found["checkpoints"] == {"teacher": 8, "student": 6}
    assert finished(workdir.parent / "new", OURS) is None


def test_an_altered_byte_is_told_with_what_to_delete(workdir: Path) -> None:
    files = counted(workdir)
    assert len(files) == 5 + 4
    for path in files:
        content = path.read_bytes()
        checkpoint = next((p for p in path.parents if p.name.isdigit()), None)
        named = f"{path} is damaged" if checkpoint is None else f"checkpoint {checkpoint} is damaged"
        for at in range(0, len(content), 3):  # of all bytes: tests of sealed files
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
            with pytest.raises(UserError) as caught:
                finished(workdir, OURS)
            assert str(caught.value).startswith(named)
            assert "\nDelete that f" in str(caught.value)
        path.write_bytes(content)
    assert finished(workdir, OURS) is not None


def test_what_is_missing_is_left_to_do(workdir: Path) -> None:
    for path in counted(workdir):
        if path.parent == workdir:
            moved = path.rename(path.with_suffix(".moved"))
            assert finished(workdir, OURS) is None
            moved.rename(path)
    (workdir / "checkpoints" / "student" / "6" / "meta" / "metadata").unlink()
    with pytest.raises(UserError, match=r"6 is damaged \(meta/metadata is missing\)"):
        finished(workdir, OURS)
    (workdir / "checkpoints" / "student" / "6").rename(workdir / "elsewhere")
    assert finished(workdir, OURS) is None


def test_a_damaged_checkpoint_says_where_to_go_on(workdir: Path) -> None:
    teacher = workdir / "checkpoints" / "teacher"
    (teacher / "8" / "checksums.json").write_text("[1]")
    with pytest.raises(UserError, match=r"Delete that folder to continue from step 4\."):
        check_checkpoint(teacher, 8)
    (teacher / "8" / "checksums.json").unlink()  # a kill came before it: the digest of the arrays tells
    check_checkpoint(teacher, 8)
    (teacher / "4" / "meta" / "metadata").write_text("")
    with pytest.raises(UserError, match=r"meta/metadata is altered.*\nDelete that folder to continue from step 8"):
        check_checkpoint(teacher, 4)


def test_another_configuration_is_listed_and_takes_nothing(workdir: Path) -> None:
    other = {"seed": 1, "student": {"bits": 8, "scope": "layer"}}
    for look in (finished, open_existing):
        with pytest.raises(UserError, match=r"  seed: 0 there, 1 now\n  student.scope: None there, 'layer' now\nName"):
            look(workdir, other)
    assert not (workdir / ".lock").exists()
    open_existing(workdir, OURS)
    assert (workdir / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"^--workdir={workdir} cannot be used .{tmp_path / 'file'} is no folder."):
            open_existing(workdir, OURS)
    open_existing(tmp_path / "deep" / "run", OURS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b'{"seed": 0}', b"1", b"null", b"[" * 100_000])
def test_a_configuration_that_is_none_is_damaged(workdir: Path, content: bytes) -> None:
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=f"^{workdir / 'config.json'} is damaged .*\nDelete that file"):
        settings(workdir)


def test_checkpoints_tell_whose_they_are_when_the_configuration_is_gone(workdir: Path) -> None:
    (workdir / "config.json").unlink()
    assert not check_settings(workdir, OURS)  # they do not say
    metadata = workdir / "checkpoints" / "student" / "6" / "meta" / "metadata"
    metadata.write_bytes(sealed.sealed({"of": {"configuration": sealed.digest(OURS)}}))
    assert not check_settings(workdir, OURS)
    with pytest.raises(UserError, match=f"^checkpoint {metadata.parents[1]} is of another configuration than is given"):
        check_settings(workdir, {**OURS, "seed": 1})
    altered = metadata.read_text().replace("configuration", "Configuration")
    for damaged in (altered, "{", "[1]", '{"of": 1}', "{}"):  # which restoring tells
        metadata.write_text(damaged)
        assert not check_settings(workdir, {**OURS, "seed": 1})


def test_a_table_takes_whole_summaries_alone(workdir: Path) -> None:
    assert outcome.load(workdir)["seed"] == 0
    path = workdir / "summary.json"
    path.write_text(path.read_text().replace("0.98", "0.99"))
    with pytest.raises(UserError, match=f"^{path} is damaged"):
        outcome.load(workdir)
    sealed.write(path, {"stages": []})
    with pytest.raises(UserError, match=f"^{path} is not of train.compress: it has no seed, "):
        outcome.load(workdir)
    path.unlink()
    with pytest.raises(UserError, match=r"holds no summary\.json"):
        outcome.load(workdir)


def without_jax(workdir: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The main job where JAX, Flax and data cannot be imported."""
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['jax', 'flax', 'sklearn', 'jaxcomp', 'orbax'])\n"
        "from train.common import command_line\n"
        "command_line.run('train.compress')\n"
    )
    command = [sys.executable, "-c", code, f"--workdir={workdir}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_answers_before_jax_starts(tmp_path: Path) -> None:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])
    config = command_line.load(str(command_line.CONFIGS / "digits.py"))
    workdir = run_folder(tmp_path / "run", command_line.fields(command_line.resolve(config)))
    done = without_jax(workdir)
    assert (done.returncode, done.stdout) == (0, outcome.sentence(SUMMARY, workdir) + "\n"), done.stderr
    refused = without_jax(workdir, "--config.seed=1")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {workdir} holds a run of another configuration:\n  seed: 0 there, 1 now")
    (workdir / "summary.json").unlink()
    lock.take(workdir)
    second = without_jax(workdir)
    lock.release(workdir)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"error: {workdir} is in use by process ")
