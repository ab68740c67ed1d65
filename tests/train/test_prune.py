"""A published network is pruned round by round from the command line, until the target or the floor."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.train.conftest import Cli
from tests.train.test_pretrained import torch_names
from train import prune


@pytest.mark.exhaustive
def test_the_best_network_is_what_its_artifact_scores(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--steps=2", "--recalibration=2", "--share=0.5", "--floor=0"]
    done = cli(*command, "--target=0.75", module="train.prune")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert [row["asked"] for row in summary["rounds"]] == [0, 0.5, 0.75]
    assert (summary["why"], summary["sparsity"], summary["accuracy"]) == (
        "target",
        0.75,
        summary["rounds"][-1]["score"],
    )
    assert (workdir / "model.jcz").stat().st_size == summary["bytes"]
    scored = cli(f"--artifact={workdir / 'model.jcz'}", module="train.evaluate")
    assert json.loads(scored.stdout)["accuracy"] == summary["accuracy"]
    again = cli(*command, "--target=0.75", module="train.prune")
    assert (again.returncode, "the target is met" in again.stdout) == (0, True)
    lost = cli(*command[:-1], "--floor=1.0", "--target=0.75", module="train.prune")
    assert (lost.returncode, "before it is pruned, below the floor" in lost.stderr) == (1, True)


def test_rewinding_weights_needs_to_know_to_what(tmp_path: Path) -> None:
    args = prune.parse(["--weights=w.npz", "--rewind=weights", f"--workdir={tmp_path}"])
    with pytest.raises(prune.UserError, match="--early FILE"):
        prune.job(args)
