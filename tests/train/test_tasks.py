"""Detection and segmentation go through the job of classification: cut, pruned, quantized, distilled, in integers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxcomp as jc
from tests.train.conftest import Cli, assert_same_end, last_checkpoint
from train.common.loop import read_metrics

CONFIG = """
from ml_collections import ConfigDict
from train.configs import digits_{task}

def get_config():
    config = digits_{task}.get_config()
    config.batch_size, config.record_every = 100, 0.5
    for phase in (config.teacher, config.student):
        phase.options, phase.epochs = ConfigDict({options}), 0.5
    config.student.sparsity, config.student.prune_every = 0.5, 2
    config.student.macs, config.student.integers = {macs}, {integers}
    return config
"""
OPTIONS = {
    "detection": {"backbone": "resnet", "backbone_options": {"depth": 8, "width": 4}, "width": 8},
    "segmentation": {"widths": (4, 8), "attention": False},
}
METRIC = {"detection": "map50", "segmentation": "mean_iou"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("task", ["segmentation", pytest.param("detection", marks=pytest.mark.nightly)])
def test_a_task_goes_through_the_whole_job(cli: Cli, tmp_path: Path, task: str) -> None:
    cut = task == "detection"
    config, workdir = tmp_path / "tiny.py", tmp_path / "run"
    how = {"options": OPTIONS[task], "macs": 0.6 if cut else 1.0, "integers": True}
    config.write_text(CONFIG.format(task=task, **how))
    arguments = f"--config={config}", f"--task={task}", f"--workdir={workdir}"
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"digits, {task}: teacher ")
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["task"], summary["metric"], summary["examples"]) == (task, METRIC[task], 300)
    for whose in ("teacher", "compressed", "integers"):
        assert 0 <= summary[f"{whose}_{METRIC[task]}"] <= 1
    assert (summary["compressed_macs"] <= 0.6 * summary["teacher_macs"]) == cut
    assert summary["sparsity"] >= 0.5
    assert {"pictures.png", "integers.jcz"} <= {path.name for path in workdir.iterdir()}
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png") >= 6 * 3
    shipped, _ = jc.pack.load(workdir / "model.jcz")
    short = [np.asarray(leaf) for leaf in _leaves(shipped) if np.ndim(leaf) == 1]  # biases, norms, statistics
    assert short
    assert all((leaf.view(np.uint32) & 0xFFFF == 0).all() for leaf in short)
    saved, _ = jc.pack.load(workdir / "integers.jcz")
    assert any(np.asarray(leaf).dtype == np.int8 for leaf in _leaves(saved))
    assert f"test_{METRIC[task]}" in read_metrics(workdir / "metrics.jsonl")[-1]
    _goes_on(cli, workdir, arguments)


def _goes_on(cli: Cli, workdir: Path, arguments: tuple[str, ...]) -> None:
    """A run that lost its end comes to the same end, to the bit."""
    whole = shutil.copytree(workdir, workdir.parent / "whole")
    shutil.rmtree(last_checkpoint(workdir))
    for name in ("summary.json", "report.html", "model.jcz"):
        (workdir / name).unlink()
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert_same_end(workdir, whole)


def _leaves(tree: object) -> list[object]:
    import jax

    return jax.tree.leaves(tree)
