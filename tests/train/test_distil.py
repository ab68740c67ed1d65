"""Ways to distil beside each other: taps join any two networks, a run that stopped goes on, and the table adds up."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxcomp as jc
from tests.train.test_pretrained import torch_names
from train import distil
from train.common.distilled import means, told
from train.common.errors import UserError

QUICK = ["--epochs", "1", "--seeds", "0", "--batch_size", "256"]
SMALL = ["--teacher", "lenet300", "--student", "lenet300", *QUICK]


@pytest.mark.exhaustive
def test_methods_are_compared_once_each_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*SMALL, "--workdir", str(tmp_path)]
    first = distil.job(distil.parse([*args, "--methods", "alone", "rkd", "hint"]))
    assert [row["method"] for row in first["rows"]] == ["teacher", "alone", "rkd"]
    assert first["left_out"] == {"hint": "it compares feature maps, and one of the networks has none"}
    said = capsys.readouterr().out
    assert "| hint |  | left out: it compares feature maps" in said
    assert "| alone | 1 |" in said
    assert (tmp_path / "methods.png").stat().st_size > 5_000
    again = distil.job(distil.parse([*args, "--methods", "alone", "rkd"]))
    assert again["rows"] == first["rows"]
    assert json.loads((tmp_path / "summary.json").read_text())["rows"] == first["rows"]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_teacher_that_runs_once_teaches_the_same_views(tmp_path: Path) -> None:
    args = [*SMALL, "--augment", "pad_crop(1)", "--views", "2", "--workdir", str(tmp_path)]
    found = distil.job(distil.parse([*args, "--methods", "soft targets", "rkd"]))
    assert [row["method"] for row in found["rows"]] == ["teacher", "soft targets"]
    assert found["left_out"] == {"rkd": "it compares features, and of a teacher that ran once there are labels alone"}
    kept = (tmp_path / "labels" / "labels.array_record").read_bytes()
    other = [*SMALL, "--augment", "pad_crop(2)", "--views", "2", "--labels", str(tmp_path / "labels")]
    with pytest.raises(UserError, match=r"augmentation: 'sequence\(pad_crop\(1, fill=0\)\)' there"):
        distil.job(distil.parse([*other, "--weights", str(tmp_path / "teacher.jcz"), "--workdir", str(tmp_path / "b")]))
    assert (tmp_path / "labels" / "labels.array_record").read_bytes() == kept


@pytest.mark.exhaustive
def test_a_published_network_is_pruned_or_cut_and_taught_by_itself(tmp_path: Path, here: Callable[..., Any]) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    args = [f"--weights={tmp_path / 'tiny.npz'}", "--start=teacher", *QUICK, "--augment=pad_crop(1)"]
    methods = ["--methods", "alone", "soft targets + hint", "--taps", "Block_0=Block_0", "Block_2=Block_2"]
    for name, compressed in (("zeros", "--zeros=0.75"), ("macs", "--macs=0.6")):
        folder = tmp_path / name
        done = here(*args, compressed, *methods, f"--workdir={folder}", module="train.distil")
        assert done.returncode == 0, done.stderr
        rows = json.loads((folder / "summary.json").read_text())["rows"]
        assert [row["method"] for row in rows] == ["teacher", "start", "alone", "soft targets + hint"]
    kernels, _ = jc.pack.load(tmp_path / "zeros" / "alone-0.jcz")
    values = np.concatenate([leaf.ravel() for leaf in _kernels(kernels["params"])])
    assert (values == 0).mean() == pytest.approx(0.75, abs=0.01)
    for name in ("zeros", "macs"):  # the file computes what was scored
        scored = here(f"--artifact={tmp_path / name / 'alone-0.jcz'}", module="train.evaluate")
        rows = json.loads((tmp_path / name / "summary.json").read_text())["rows"]
        assert json.loads(scored.stdout)["accuracy"] == pytest.approx(rows[2]["accuracy"])


def _kernels(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [leaf for name, own in tree.items() if name not in ("bias", "scale") for leaf in _kernels(own)]
    return [np.asarray(tree)]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("teacher", "student", "methods"),
    [("vit", "cnn", ["vid", "attention"]), ("cnn", "tiny_resnet", ["hint"]), ("cnn", "row_lstm", ["similarity"])],
)
def test_taps_join_networks_of_other_kinds(tmp_path: Path, teacher: str, student: str, methods: list[str]) -> None:
    args = ["--teacher", teacher, "--student", student, "--workdir", str(tmp_path), *QUICK]
    rows = distil.job(distil.parse([*args, "--methods", *methods]))["rows"]
    assert [row["method"] for row in rows] == ["teacher", *methods]
    assert all(0 < row["accuracy"] <= 1 for row in rows)


def test_means_and_gains_are_over_seeds() -> None:
    rows = [{"method": m, "accuracy": a} for m, a in [("teacher", 1), ("alone", 0.8), ("dkd", 0.9), ("dkd", 0.86)]]
    assert means(rows)["dkd"] == pytest.approx((0.88, math.sqrt(2) * 0.02, 2))
    assert "| dkd | 2 | 88.00 ± 2.83 | +8.00 |" in told({"rows": rows})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--methods", "magic"], "'magic' is no way to distil"),
        (["--labels", "folder"], "--labels needs --views"),
        (["--zeros", "0.5"], "name it with --start FILE, or --start teacher"),
        (["--start", "teacher", "--macs", "2"], "--macs must be a fraction in (0, 1), got 2.0"),
        (["--augment", "blur()"], "--augment must be calls of jc.augment's"),
    ],
)
def test_what_cannot_be_is_told_before_a_folder_is_made(tmp_path: Path, given: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        distil.job(distil.parse([*SMALL, *given, "--workdir", str(tmp_path / "run")]))
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["epochs", "batch_size", "learning_rate"])
def test_options_out_of_range_are_refused_before_a_folder_is_made(tmp_path: Path, option: str) -> None:
    args = distil.parse(["--workdir", str(tmp_path / "run"), f"--{option}", "0"])
    with pytest.raises(UserError, match=f"--{option} must be above 0, got 0"):
        distil.job(args)
    assert not (tmp_path / "run").exists()
