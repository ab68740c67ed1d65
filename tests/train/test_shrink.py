"""A published network is cut, recalibrated, fine-tuned from the command line; the file computes what was scored."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import Cli
from test_pretrained import torch_names

import jaxcomp as jc
from train import data
from train.models.pretrained import MEAN, STD
from train.models.resnet import ResNet
from train.step import Classifier


@pytest.mark.exhaustive
def test_every_stage_is_scored_and_the_file_is_the_last(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--calibration=1", "--recalibration=2", "--steps=2"]
    refused = cli(*command, "--macs=0.001", module="train.shrink")
    assert (refused.returncode, workdir.exists()) == (1, False)  # and the folder is free for a target that can be met
    assert "macs=0.001 allows" in refused.stderr
    done = cli(*command, module="train.shrink")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert [row["stage"] for row in summary["stages"]] == ["published", "one shot", "recalibrated", "fine-tuned"]
    assert summary["reduction"] >= 2
    other = cli(*command, "--macs=0.4", module="train.shrink")
    assert (other.returncode, "macs: 0.5 there, 0.4 now" in other.stderr) == (1, True)

    saved, metadata = jc.pack.load(workdir / "model.jcz")
    model = Classifier(ResNet(classes=10, **metadata["options"]), MEAN, STD)
    test = data.load("digits").test
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8))
    small, _ = jc.rewrite.shrink(model.logits, shapes, test.images[:1], keep=saved["keep"])
    predicted = np.argmax(small(saved["variables"], test.images), axis=-1)
    assert np.mean(predicted == test.labels) == pytest.approx(summary["stages"][-1]["accuracy"])
