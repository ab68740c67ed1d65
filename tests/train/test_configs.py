"""The ready configurations can be run: every one is built of shapes, and small ones train on photographs."""

import functools
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxcomp as jc
from tests.train.conftest import Cli, assert_same_end, last_checkpoint
from train.bench.input import photograph
from train.common import command_line, phases
from train.common.data import Dataset, Split
from train.common.image_folder import write_records
from train.common.stages import stages
from train.configs import cifar10_resnet20, imagenet_resnet50

READY = [
    *("imagenet2012", "imagenet_resnet50_rigl", "imagenet_vit_b16", "imagenet_mobilenet_v2", "cifar10", "cifar10_vit"),
    *(f"imagenet_resnet50:{variant}" for variant in imagenet_resnet50.VARIANTS),
    *(f"cifar10_resnet20:{variant}" for variant in cifar10_resnet20.VARIANTS),
]


def dataset(side: int, classes: int) -> Dataset:
    split = Split(np.arange(2 * side * side * 3, dtype=np.uint8).reshape(2, side, side, 3), np.arange(2))
    return Dataset("shapes", classes, lambda name: split)


@functools.cache
def built(model: str, options: str, side: int, classes: int) -> Any:
    """The parameters' shapes of a network, which answers what is asked; most configurations share theirs."""
    config = command_line.load(str(command_line.CONFIGS / "default.py"))
    config.teacher.model = model
    with config.teacher.unlocked():
        config.teacher.options = json.loads(options)
    found = phases.make_network(config, "teacher", dataset(side, classes))
    return jax.eval_shape(found.init, jax.random.key(0), dataset(side, classes).train.images[:1])["params"]


@pytest.mark.parametrize("name", READY)
def test_a_ready_configuration_builds(name: str) -> None:
    file, _, variant = name.partition(":")
    path = str(command_line.CONFIGS / f"{file}.py")
    config = command_line.load(f"{path}:{variant}" if variant else path)
    side, classes = (32, 10) if name.startswith("cifar") else (224, 1000)
    assert config.image_size in (0, side)
    options = {phase: json.dumps(config[phase].options.to_dict()) for phase in ("teacher", "student")}
    teacher, student = (built(config[phase].model, own, side, classes) for phase, own in options.items())
    if config.student.from_teacher:
        assert jax.tree.map(np.shape, teacher) == jax.tree.map(np.shape, student)
    own = {key: value for key, value in runpy.run_path(path).items() if key in command_line.OWN}
    for number, stage in enumerate(stages(config, own)):
        phase = phases.make_phase(config, "student", dataset(side, classes), stage, number)
        recipe = jc.identity() if stage.recipe is None else stage.recipe(10_000)
        compressed = jax.eval_shape(lambda params, recipe=recipe: recipe.apply(params, recipe.init(params)), student)
        assert jax.tree.map(np.shape, compressed) == jax.tree.map(np.shape, student)
        tx = phases.make_optimizer(config, phase, 1250)
        if config.optimizer != "sgd":  # the others' steps are as large as the rate, whatever the gradients are
            assert max(config.teacher.learning_rate, stage.learning_rate) <= 0.05
        assert jax.tree.leaves(jax.eval_shape(tx.init, (student, {})))
    doc = runpy.run_path(path)["get_config"].__doc__
    assert "Cost" in doc or file in ("cifar10", "imagenet2012")


SMALL = {
    "imagenet_resnet50_rigl": ("{'blocks': (1, 1), 'width': 8}", "{'blocks': (1, 1), 'width': 8}"),
    "imagenet_vit_b16": (
        "{'blocks': (1, 1), 'width': 8}",
        "{'patch': 16, 'width': 24, 'depth': 2, 'heads': 3, 'distilled': True, 'drop_path': 0.5}",
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SMALL)
def test_a_ready_configuration_runs_on_photographs(name: str, cli: Cli, tmp_path: Path) -> None:
    files = [photograph(number, 90, 70) for number in range(48)]
    files[5] = files[5][:200]  # one of training is torn
    for split, own in (("train", files[:40]), ("test", files[40:])):
        write_records(tmp_path / "set" / f"{split}.array_record", [(file, n % 4) for n, file in enumerate(own)])
    teacher, student = SMALL[name]
    arguments = (
        f"--config={command_line.CONFIGS / f'{name}.py'}",
        f"--dataset={tmp_path / 'set'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.image_size=64",
        "--config.batch_size=8",
        "--config.teacher.epochs=0.4",
        "--config.student.epochs=0.6",
        "--config.record_every=0.4",
        "--config.warmup=0.2",
        f"--config.teacher.options={teacher}",
        f"--config.student.options={student}",
    )
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert "split 'train': record 5 cannot be read" in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["examples"] == 8
    assert summary["sparsity"] > 0.7 if "rigl" in name else summary["sparsity"] < 0.2
    if "rigl" in name:  # a run that lost its end reads the same batches again
        whole = shutil.copytree(tmp_path / "run", tmp_path / "whole")
        shutil.rmtree(last_checkpoint(tmp_path / "run"))
        for file in ("summary.json", "report.html", "model.jcz"):
            (tmp_path / "run" / file).unlink()
        assert cli(*arguments).returncode == 0
        assert_same_end(tmp_path / "run", whole)
