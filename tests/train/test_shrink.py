"""A published network is cut, recalibrated, fine-tuned from the command line; the file computes what was scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.conftest import Cli
from tests.train.test_pretrained import torch_names


@pytest.mark.exhaustive
def test_every_stage_is_scored_and_the_file_is_the_last(cli: Cli, here: Callable[..., Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--rounds=2", "--calibration=1", "--calibration_size=8", "--recalibration=2", "--steps=2"]
    refused = here(*command, "--macs=0.001", module="train.shrink")
    assert (refused.returncode, workdir.exists()) == (1, False)  # and the folder is free for a target that can be met
    assert "macs=0.001 allows" in refused.stderr
    done = cli(*command, module="train.shrink")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert [row["stage"] for row in summary["stages"]] == ["published", "one shot", "recalibrated", "fine-tuned"]
    assert summary["reduction"] >= 2
    for wrong in ("--macs=1.5", "--rounds=0"):
        assert "must be" in here(*command, wrong, module="train.shrink").stderr
    other = here(*command, "--macs=0.4", module="train.shrink")
    assert (other.returncode, "macs: '0.5' there, '0.4' now" in other.stderr) == (1, True)

    alone = here(f"--artifact={workdir / 'model.jcz'}", module="train.evaluate")  # the file computes what was scored
    assert json.loads(alone.stdout)["accuracy"] == pytest.approx(summary["stages"][-1]["accuracy"])
    assert "Channels" in (workdir / "report.html").read_text()
