"""A published network is pruned in one shot from the command line; a run that stopped goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.conftest import Cli
from tests.train.test_pretrained import torch_names
from train import oneshot


@pytest.mark.exhaustive
def test_every_point_is_scored_once_and_drawn(cli: Cli, here: Callable[..., Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--calibration=2", "--fisher=1", "--recalibration=2"]
    first = cli(*command, "--sparsities", "0.5", "--methods", "magnitude global", module="train.oneshot")
    assert first.returncode == 0, first.stderr
    more = ["--sparsities", "0.5", "0.9", "--methods", "magnitude global", "SparseGPT"]
    one = json.loads((workdir / "summary.json").read_text())["rows"]
    done = here(*command, *more, module="train.oneshot")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["rows"][:1] == one  # its seconds too: it was not pruned again
    points = [(row["method"], row["asked"]) for row in summary["rows"]]
    assert points == [("magnitude global", 0.5), ("magnitude global", 0.9), ("SparseGPT", 0.5), ("SparseGPT", 0.9)]
    assert all(row["sparsity"] == pytest.approx(row["asked"], abs=2e-3) for row in summary["rows"])
    assert all(0 <= row[field] <= 1 for row in summary["rows"] for field in ("accuracy", "recalibrated"))
    assert done.stdout.count("magnitude global") == 2  # the row that was known is printed too
    assert (workdir / "accuracy.png").stat().st_size > 10_000
    other = here(*command[:-1], "--recalibration=3", *more, module="train.oneshot")
    assert (other.returncode, "recalibration: '2' there, '3' now" in other.stderr) == (1, True)


def test_methods_are_those_of_sparsify() -> None:
    args = oneshot.parse(["--weights=w.npz"])
    assert args.methods == list(oneshot.METHODS)
    assert {options["method"] for options in oneshot.METHODS.values()} == {
        "magnitude",
        "wanda",
        "woodfisher",
        "sparsegpt",
        "obc",
    }
