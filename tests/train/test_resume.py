"""A run that is killed at any moment ends, when it is started again, with the bits of one that was not."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.train.conftest import Cli, assert_same_end, finish, last_checkpoint, records, wait_until


def torn_checkpoint(workdir: Path, phase: str) -> Callable[[], bool]:
    """Whether a checkpoint is being written: it has its temporary name."""
    return lambda: any("tmp" in path.name for path in (workdir / "checkpoints" / phase).glob("*"))


@pytest.mark.exhaustive
def test_killed_again_and_again(cli: Cli, reference: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    duration = float((cli.folder / "seconds").read_text())
    workdir = tmp_path / "run"
    # The reference also compiled, so a share of its time may be more than a run now takes: records bound it.
    began, early = 0.0, rng.uniform(0.05, 0.3) * duration
    moments: list[tuple[Callable[[], bool], float]] = [
        # The moment to wait for, and the longest random delay after it, in seconds.
        (lambda: time.monotonic() > began + early or records(workdir, "teacher") >= 1, 0.0),
        (torn_checkpoint(workdir, "teacher"), 0.0),
        (lambda: records(workdir, "teacher") >= 2, 0.3),
        (torn_checkpoint(workdir, "student"), 0.05),
        (lambda: records(workdir, "student") >= 3, 0.3),
        (lambda: (workdir / "model.jcz").exists(), 0.5),
    ]
    for moment, delay in moments:
        began = time.monotonic()
        process = cli.start(f"--workdir={workdir}")
        wait_until(process, moment)
        time.sleep(rng.uniform(0, delay))
        process.send_signal(signal.SIGKILL)
        assert finish(process).returncode == -signal.SIGKILL
        assert not (workdir / "summary.json").exists()
    done = cli(f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert_same_end(workdir, reference)


@pytest.mark.exhaustive
def test_sigterm_saves_first(cli: Cli, reference: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    process = cli.start(f"--workdir={workdir}")
    wait_until(process, (workdir / "metrics.jsonl").exists)
    time.sleep(0.2)  # compiling, or in the first steps
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.returncode == 143, stopped.stderr
    step = last_checkpoint(workdir, "teacher").name
    assert stopped.stderr == f"stopped by SIGTERM at teacher step {step}; run the same command to continue\n"
    done = cli(f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert_same_end(workdir, reference)


@pytest.mark.exhaustive
def test_a_finished_run_ships_again(cli: Cli, reference: Path, finished: Path) -> None:
    for name in ("model.jcz", "summary.json", "report.html"):
        (finished / name).unlink()
    shutil.rmtree(last_checkpoint(finished))  # and its last steps are made again
    with (finished / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "student", "st')  # a line that a kill has torn
    done = cli(f"--workdir={finished}")
    assert done.returncode == 0, done.stderr
    assert_same_end(finished, reference)
