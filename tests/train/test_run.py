"""The folder of a run holds what is promised, and the run says little."""

import json
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxcomp as jc
from tests.train.conftest import Cli, checkpoint_arrays, last_checkpoint
from train import models
from train.common import data
from train.common.loop import read_metrics
from train.common.scoring import score
from train.common.step import network


def test_the_folder_holds_what_is_promised(reference: Path) -> None:
    names = {"config.json", "metrics.jsonl", "checkpoints", "summary.json", "report.html", "model.jcz"}
    assert {path.name for path in reference.iterdir()} == names
    assert {path.name for path in (reference / "checkpoints").iterdir()} == {"teacher", "student"}
    config = json.loads((reference / "config.json").read_text())
    assert config["dataset"] == "digits"
    assert config["student"]["options"] == {"widths": [4, 8]}
    assert config["student"]["bits"] == 8


def test_the_summary_says_what_was_reached(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    promised = "teacher_accuracy compressed_accuracy teacher_bytes compressed_bytes ratio sparsity wall_seconds seed"
    assert set(promised.split()) <= set(summary)
    kernels = 3 * 3 * 1 * 4 + 3 * 3 * 4 * 8 + 8 * 10
    assert summary["teacher_bytes"] == 4 * (kernels + 4 + 8 + 10)
    assert summary["compressed_bytes"] == (reference / "model.jcz").stat().st_size
    assert summary["ratio"] == summary["teacher_bytes"] / summary["compressed_bytes"]
    assert 0.5 <= summary["sparsity"] < 0.55  # half is pruned; a few more weights are rounded to 0
    assert summary["seed"] == 0
    assert summary["examples"] == 599
    assert 0 < summary["train_seconds"] < summary["wall_seconds"]


def test_the_artifact_is_what_was_trained_and_computes_what_the_summary_says(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    variables, metadata = jc.pack.load(reference / "model.jcz")
    module = models.create(metadata["model"], metadata["classes"], metadata["options"])
    model = network(module, tuple(metadata["mean"]), tuple(metadata["std"]))
    found = score(model, variables, data.load("digits").test)
    assert found["accuracy"] == summary["compressed_accuracy"]
    assert found["predictions"] == summary["predictions"]
    assert found["correct"] / found["examples"] == found["accuracy"]
    # Biases are stored as they are: each is an array of the student's last checkpoint, bit for bit.
    trained = {array.tobytes() for array in checkpoint_arrays(last_checkpoint(reference))}
    biases = [leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 1]
    assert len(biases) == 3
    assert all(bias.tobytes() in trained for bias in biases)
    for kernel in (leaf for leaf in jax.tree.leaves(variables) if leaf.ndim > 1):
        for channel in kernel.reshape(-1, kernel.shape[-1]).T:
            assert len(np.unique(np.abs(channel))) <= 128  # 8 bits a channel


def test_metrics_and_report(reference: Path) -> None:
    records = read_metrics(reference / "metrics.jsonl")
    assert [r["step"] for r in records if r["phase"] == "teacher"] == [4, 8, 12, 14]
    assert [r["step"] for r in records if r["phase"] == "student"] == [4, 8, 12, 16, 20, 22]
    for record in records:
        assert np.isfinite(record["loss"])
        assert 0 <= record["accuracy"] <= 1
        assert 0 <= record["test_accuracy"] <= 1
    assert records[-1]["sparsity"] == json.loads((reference / "summary.json").read_text())["sparsity"]
    page = Page()
    page.feed((reference / "report.html").read_text())
    assert not page.fetched  # self-contained
    for words in ("Training", "Layers", "Weights, teacher and compressed student", "Result", "Conv_0/kernel"):
        assert any(words in text for text in page.texts)
    for words in ("jaxcomp ", "JAX ", " UTC", "a cnn taught by a cnn on digits, seed 0", "MACs an image", "predicted"):
        assert any(words in text for text in page.texts), words
    assert max(len(word) for text in page.texts for word in text.split()) < 64  # no checksum stretches the page


class Page(HTMLParser):
    """The texts of a page, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = [value for key, value in attrs if key in ("src", "href") and value]
        self.fetched += [value for value in wanted if not value.startswith(("data:", "#"))]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_run_is_quiet_where_nobody_watches(cli: Cli, reference: Path) -> None:
    assert (cli.folder / "stderr").read_text() == ""
    (line,) = (cli.folder / "stdout").read_text().splitlines()
    assert line.startswith("digits: teacher ")
    assert line.endswith(str(reference / "report.html"))


@pytest.mark.exhaustive
def test_pmap_gives_the_same_curves(cli: Cli, reference: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    done = cli(f"--workdir={workdir}", "--parallel=pmap", devices=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    mine, theirs = (read_metrics(folder / "metrics.jsonl") for folder in (workdir, reference))
    # Sums over two devices are rounded otherwise than over one.
    np.testing.assert_allclose([r["loss"] for r in mine], [r["loss"] for r in theirs], rtol=1e-4)
    assert [r.get("sparsity") for r in mine] == [r.get("sparsity") for r in theirs]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "given",
    [
        ["--config.distill.views=2", "--config.augment=pad_crop(1)", "--config.shift=0"],
        ["--config.distill.method=soft targets + hint + rkd", "--config.distill.taps=Conv_1=Conv_0 Conv_1=Conv_1"],
    ],
    ids=["a teacher that runs once", "features"],
)
def test_students_learn_as_a_configuration_says(cli: Cli, tmp_path: Path, given: list[str]) -> None:
    done = cli(f"--workdir={tmp_path / 'run'}", *given)
    assert done.returncode == 0, done.stderr
    first, *_, last = (each for each in read_metrics(tmp_path / "run" / "metrics.jsonl") if each["phase"] == "student")
    assert last["loss"] < first["loss"]
    assert (tmp_path / "run" / "labels" / "labels.array_record").exists() == ("distill.views" in given[0])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--config.distill.method=magic"], "'magic' is no way to distil"),
        (["--config.distill.method=hint", "--config.distill.taps=Conv_9=Conv_0"], "'Conv_9' names no value"),
        (
            ["--config.distill.method=rkd", "--config.distill.views=1", "--config.shift=0"],
            "of a teacher that ran once there are labels alone",
        ),
    ],
)
def test_a_way_to_learn_that_cannot_be_is_told(cli: Cli, tmp_path: Path, given: list[str], words: str) -> None:
    done = cli(f"--workdir={tmp_path / 'run'}", *given)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "run").exists()
