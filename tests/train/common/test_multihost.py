"""Two processes of two devices each train as one process does."""

import json
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.train.conftest import Cli, finish, last_checkpoint, wait_until
from train.common.loop import read_metrics


def start_both(cli: Cli, workdir: Path) -> list:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    common = ["--multihost", f"--coordinator=localhost:{port}", "--num_processes=2", f"--workdir={workdir}"]
    return [cli.start(*common, f"--process_id={i}", devices=2) for i in range(2)]


@pytest.mark.exhaustive
def test_two_hosts_stop_together_and_end_as_one(cli: Cli, reference: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    both = start_both(cli, workdir)
    wait_until(both[1], (workdir / "metrics.jsonl").exists)
    both[1].send_signal(signal.SIGTERM)  # one of them is asked, both stop after the same step
    stopped = [finish(process) for process in both]
    step = last_checkpoint(workdir, "teacher").name
    for end in stopped:
        assert end.returncode == 143, end.stderr
        assert f"stopped by SIGTERM at teacher step {step};" in end.stderr

    ended = [finish(process) for process in start_both(cli, workdir)]
    assert [end.returncode for end in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert sorted(path.name for path in workdir.iterdir()) == sorted(path.name for path in reference.iterdir())
    assert not list(workdir.rglob("*process_1*"))  # the second host wrote nothing
    mine, theirs = read_metrics(workdir / "metrics.jsonl"), read_metrics(reference / "metrics.jsonl")
    assert [(r["phase"], r["step"]) for r in mine] == [(r["phase"], r["step"]) for r in theirs]
    # Sums over four devices are rounded otherwise than over one: 2e-6 was measured.
    np.testing.assert_allclose([r["loss"] for r in mine], [r["loss"] for r in theirs], rtol=1e-4)
    summary, expected = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, reference))
    assert summary["sparsity"] == expected["sparsity"]
    assert abs(summary["compressed_accuracy"] - expected["compressed_accuracy"]) <= 2 / 599


@pytest.mark.exhaustive
def test_a_full_disk_of_the_first_host_stops_both_with_one_sentence(cli: Cli, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    workdir = tmp_path / "run"
    both = start_both(cli, workdir)
    wait_until(both[0], (workdir / "checkpoints" / "teacher").exists)
    resource.prlimit(both[0].pid, resource.RLIMIT_FSIZE, (2000, 2000))  # the records have room, a checkpoint has not
    ends = [finish(process) for process in both]
    for end in ends:
        assert end.returncode == 1, end.stderr
        sentence = end.stderr.strip().splitlines()[-1]
        assert sentence.startswith("error: the disk is full, or the quota used up: checkpoint "), end.stderr
        assert sentence.endswith("Free some space, then run the same command to continue.")
    assert ends[0].stderr.splitlines()[-1] == ends[1].stderr.splitlines()[-1]
    ended = [finish(process) for process in start_both(cli, workdir)]
    assert [end.returncode for end in ended] == [0, 0], ended[0].stderr + ended[1].stderr
