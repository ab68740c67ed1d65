"""A published network is trained to compute in few bits from the command line, and its integers are scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.conftest import Cli
from tests.train.test_pretrained import torch_names
from train import evaluate, qat


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch_norm", qat.BATCH_NORM)
def test_the_integers_score_what_was_trained(
    batch_norm: str, cli: Cli, here: Callable[..., Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += [
        "--steps=3",
        "--recalibration=2",
        "--calibration=2",
        f"--batch_norm={batch_norm}",
        "--learning_rate=1e-5",
    ]
    if batch_norm == "live":
        command += ["--bits=2", "--affine"]
    done = (cli if batch_norm == "folded" else here)(*command, module="train.qat")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    stages = {row["stage"]: row for row in summary["stages"]}
    assert list(stages) == ["published", "rounded", "trained", "integers"]
    assert stages["integers"]["predictions"] == stages["trained"]["predictions"]
    assert summary["logits_distance"] <= 1e-5
    assert (workdir / "model.jcz").stat().st_size == summary["bytes"]
    assert evaluate.score_artifact(str(workdir / "model.jcz"), None)["predictions"] == stages["integers"]["predictions"]
    again = here(*command, module="train.qat")
    assert (again.returncode, "trained" in again.stdout) == (0, True)
    assert json.loads((workdir / "summary.json").read_text())["stages"] == summary["stages"]


def test_kernels_alone_decay() -> None:
    tree = {"weights": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}, "steps": {"kernel": np.ones((1, 2))}}
    assert qat.kernels((tree, {})) == (
        {"weights": {"kernel": True, "bias": False}, "steps": {"kernel": False}},
        {},
    )
