"""Two processes of two devices each train as one process does."""

import json
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcomp.core import buckets
from tests.train.conftest import Cli, checkpoint_arrays, finish, last_checkpoint, wait_until
from train.common.loop import read_metrics
from train.common.mirror import Mirror

WIDE = [f"--config.{phase}.options={{'widths': (16, 32)}}" for phase in ("teacher", "student")]
IN_PARTS = ("--mesh=fsdp=4", *WIDE)
"""The state in parts, on both hosts: narrower kernels would be in full on each."""


def start_both(cli: Cli, workdir: Path | str, *of_second: str, both: tuple[str, ...] = ()) -> list:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    common = [f"--coordinator=localhost:{port}", "--num_processes=2", "--wait=60", f"--workdir={workdir}"]
    return [cli.start(*common, *both, f"--process_id={i}", *(of_second if i else ()), devices=2) for i in range(2)]


def last_words(ends: list) -> list[str]:
    return ["error: " + end.stderr.rpartition("error: ")[2] for end in ends]


@pytest.mark.exhaustive
def test_two_hosts_stop_together_and_end_as_one(cli: Cli, tmp_path: Path) -> None:
    """As one process of four devices does."""
    reference = tmp_path / "one"
    alone = cli(f"--workdir={reference}", devices=4)
    assert alone.returncode == 0, alone.stderr
    workdir = tmp_path / "run"
    both = start_both(cli, workdir)
    wait_until(both[0], (workdir / "checkpoints" / "teacher").exists)
    both[0].kill()  # the other one would wait for a minute and a half, and abort without a sentence
    began = time.monotonic()
    assert finish(both[1]).returncode == 1
    assert time.monotonic() - began < 30
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
    # Two hosts add in another order than one.
    np.testing.assert_allclose([r["loss"] for r in mine], [r["loss"] for r in theirs], rtol=1e-6)
    assert [[r[name] for name in r if name != "loss"] for r in mine] == [
        [r[name] for name in r if name != "loss"] for r in theirs
    ]
    ours, others = (checkpoint_arrays(last_checkpoint(folder)) for folder in (workdir, reference))
    masks = [(own, other) for own, other in zip(ours, others, strict=True) if own.dtype == bool]
    assert masks
    assert all((own == other).all() for own, other in masks)
    summary, expected = (json.loads((folder / "summary.json").read_text()) for folder in (workdir, reference))
    for name in ("sparsity", "predictions", "teacher_accuracy", "compressed_accuracy"):
        assert summary[name] == expected[name], name


@pytest.mark.exhaustive
def test_two_hosts_go_on_from_a_bucket(cli: Cli, google: str, tmp_path: Path) -> None:
    """Each works in a copy of its own, and holds a part of the state; the first one alone writes into the bucket."""
    address, folder = f"{google}/runs/two", tmp_path / "copy"
    both = start_both(cli, address, both=IN_PARTS)
    wait_until(both[0], lambda: any("checkpoints/student/" in name for name in buckets.sizes(address)))
    both[1].kill()
    first = finish(both[0])
    assert first.returncode == 1
    assert "host 1 of this run has gone" in first.stderr
    ended = [finish(process) for process in start_both(cli, address, both=IN_PARTS)]
    assert [end.returncode for end in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    Mirror(address, folder).pull()
    assert len(read_metrics(folder / "metrics.jsonl")) > 4
    summary = json.loads((folder / "summary.json").read_text())
    assert buckets.size(f"{address}/model.jcz") == summary["compressed_bytes"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("of_second", "said"),
    [
        (["--config.student.sparsity=0.4"], "  --config.student.sparsity: 0.5 on host 0; 0.4 on host 1\n"),
        (["--workdir=elsewhere"], "is not the same folder on all hosts: "),
    ],
)
def test_hosts_that_were_not_given_the_same_end_before_training(
    of_second: list[str], said: str, cli: Cli, tmp_path: Path
) -> None:
    of_second = [option.replace("elsewhere", str(tmp_path / "b")) for option in of_second]
    ends = [finish(process) for process in start_both(cli, tmp_path / "a", *of_second)]
    assert [end.returncode for end in ends] == [1, 1]
    assert all(said in words for words in last_words(ends)), ends
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_waits_in_vain_says_so(host: int, cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    alone = cli(f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={host}", "--wait=3",
                f"--workdir={tmp_path / 'run'}")  # fmt: skip
    assert alone.returncode == 1
    assert f"not all 2 hosts of this run have met at localhost:{port} within 3 s: see that the same" in alone.stderr


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
