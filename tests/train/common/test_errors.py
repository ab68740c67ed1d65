"""What a user does wrong, through the real command line: a clear message, a status that is not 0, nothing lost."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from tests.train.conftest import Cli, assert_same_end, last_checkpoint
from train import models
from train.common import data
from train.common.errors import UserError
from train.common.phases import make_network
from train.configs.default import get_config

MISTAKES = {
    "dataset": (["--dataset=mnits"], ["unknown dataset 'mnits'", "such as mnist"]),
    "not prepared": (["--dataset=kmnist", "--data_dir=nowhere"], ["'kmnist' is not prepared in nowhere", "tfds build"]),
    "model": (["--config.student.model=foo"], ["unknown model 'foo'; the models are: alexnet, "]),
    "option": (["--config.student.options={'depth': 8}"], ["model 'cnn' has no option ['depth']; it has: ['widths']"]),
    "images": (
        ["--config.teacher.model=lenet5", "--config.teacher.options={}"],
        ["teacher model 'lenet5'", "takes no 8x8x1 images"],
    ),
    "field": (
        ["--config.bogus=1"],
        ["unknown configuration field --config.bogus; the fields are: accumulate, augment, batch_size, "],
    ),
    "type": (["--config.student.bits=many"], ["flag --config.student.bits=many", "invalid literal for int()"]),
    "value": (["--config.student.sparsity=1.0"], ["--config.student.sparsity must be a fraction of zeros in [0, 1)"]),
    "parallel": (["--parallel=rows"], ["flag --parallel=rows: value should be one of <jit|pmap>"]),
    "stray": (["digits"], ["unexpected argument 'digits': every option starts with --"]),
    "config": (["--config=nowhere.py"], ["--config=nowhere.py: there is no such file"]),
    "hosts": (["--multihost"], ["--multihost: ", "--coordinator=HOST:PORT --num_processes=N"]),
}


def assert_clear(done: CompletedProcess, *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1500


@pytest.fixture(scope="module")
def mistakes(cli: Cli) -> dict[str, CompletedProcess]:
    """Each mistake's process, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        runs = {
            name: pool.submit(cli, f"--workdir={cli.folder / 'mistakes' / name}", *arguments)
            for name, (arguments, _) in MISTAKES.items()
        }
        return {name: run.result() for name, run in runs.items()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(cli: Cli, mistakes: dict[str, CompletedProcess], mistake: str) -> None:
    assert_clear(mistakes[mistake], *MISTAKES[mistake][1])
    assert not (cli.folder / "mistakes" / mistake).exists()  # the right command can use the same workdir


def test_a_parameter_without_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer Flax makes a layer of whatever pooling has left, nothing included."""

    class Pooled(nn.Module):
        classes: int
        axis_name: str | None = None

        @nn.compact
        def __call__(self, images: jax.Array, **options: Any) -> jax.Array:
            return jnp.zeros((len(images), 0)) @ self.param("kernel", nn.initializers.zeros, (0, self.classes))

    monkeypatch.setitem(models.MODELS, "pooled", Pooled)
    config = get_config()
    config.teacher.model = "pooled"
    config.teacher.options = ConfigDict({})
    with pytest.raises(UserError, match=r"takes no 8x8x1 images: params/kernel would be of shape \(0, 10\)"):
        make_network(config, "teacher", data.load("digits"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.exhaustive
def test_the_workdir_of_another_configuration_is_left_alone(cli: Cli, reference: Path) -> None:
    before = contents(reference)
    done = cli(f"--workdir={reference}", "--config.seed=5", "--config.student.bits=4")
    assert_clear(done, "another configuration:\n  seed: 0 there, 5 now\n  student.bits: 8 there, 4 now\nName another")
    assert contents(reference) == before


def test_a_workdir_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_clear(cli(f"--workdir={tmp_path / 'file' / 'run'}"), f"--workdir={tmp_path / 'file' / 'run'} cannot be used")


@pytest.mark.exhaustive
def test_training_that_diverges_stops_and_keeps_the_teacher(cli: Cli, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    done = cli(f"--workdir={workdir}", "--config.student.learning_rate=1e30")
    assert_clear(done, "not finite: ", " at student step ", "--config.student.learning_rate")
    assert any(layer in done.stderr for layer in ("Conv_0/", "Dense_0/", "loss"))
    assert last_checkpoint(workdir, "teacher").is_dir()
    assert not (workdir / "model.jcz").exists()


@pytest.mark.exhaustive
def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_without_it(
    cli: Cli, reference: Path, finished: Path
) -> None:
    damaged = last_checkpoint(finished)
    file = max(
        (path for path in (damaged / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    file.write_bytes(file.read_bytes()[:-20])
    done = cli(f"--workdir={finished}")
    assert done.returncode == 1
    assert f"error: checkpoint {damaged} is damaged (" in done.stderr
    assert done.stderr.rstrip().endswith(f"Delete that folder to continue from step {int(damaged.name) - 2}.")
    shutil.rmtree(damaged)
    assert cli(f"--workdir={finished}").returncode == 0
    assert_same_end(finished, reference)


@pytest.mark.parametrize("damage", ["cut", "altered", "foreign", "gone"])
def test_a_damaged_artifact_is_refused(
    finished: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train import evaluate

    artifact = finished / "model.jcz"
    content = artifact.read_bytes()
    artifact.write_bytes(
        {
            "cut": content[:-30],
            "altered": content[:-30] + bytes([content[-30] ^ 1]) + content[-29:],
            "foreign": b"PK\x03\x04" + content,
            "gone": b"",
        }[damage]
    )
    if damage == "gone":
        artifact.unlink()
    monkeypatch.setattr("sys.argv", ["evaluate", f"--artifact={artifact}"])
    assert evaluate.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert str(artifact) in err
    words = {"cut": "cut short", "altered": "altered", "foreign": "no jaxcomp artifact", "gone": "No such file"}
    assert words[damage] in err


def test_an_artifact_that_says_too_little_is_refused(tmp_path: Path) -> None:
    import numpy as np

    import jaxcomp as jc
    from train import evaluate
    from train.common.errors import UserError

    jc.pack.save(tmp_path / "m.jcz", {"w": np.ones(3, np.float32)}, metadata={"model": "cnn"})
    with pytest.raises(UserError, match="its metadata lack classes, dataset, mean, options, std"):
        evaluate.score_artifact(str(tmp_path / "m.jcz"), None)


def test_evaluate_through_the_command_line(cli: Cli, reference: Path, tmp_path: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    done = cli(f"--artifact={reference / 'model.jcz'}", module="train.evaluate")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert (score["accuracy"], score["predictions"]) == (summary["compressed_accuracy"], summary["predictions"])
    (tmp_path / "cut.jcz").write_bytes((reference / "model.jcz").read_bytes()[:100])
    assert_clear(cli(f"--artifact={tmp_path / 'cut.jcz'}", module="train.evaluate"), "cut.jcz", "cut short")
