"""Ways to distil beside each other: taps join any two networks, a run that stopped goes on, and the table adds up."""

import json
import math
from pathlib import Path

import pytest

from train import distil
from train.common.distillation import METHODS

QUICK = ["--epochs", "1", "--seeds", "0", "--batch_size", "256"]


def test_methods_are_compared_once_each_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--teacher", "lenet300", "--student", "lenet300", "--workdir", str(tmp_path), *QUICK]
    first = distil.job(distil.parse([*args, "--methods", "alone", "rkd", "hint"]))
    assert [row["method"] for row in first["rows"]] == ["teacher", "alone", "rkd"]
    said = capsys.readouterr().out
    assert "hint             left out: it compares feature maps, and one of the networks has none" in said
    assert "| alone | 1 |" in said
    assert (tmp_path / "methods.png").stat().st_size > 5_000
    again = distil.job(distil.parse([*args, "--methods", "alone", "rkd"]))
    assert again["rows"] == first["rows"]
    assert json.loads((tmp_path / "summary.json").read_text())["rows"] == first["rows"]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("teacher", "student"), [("vit", "cnn"), ("cnn", "tiny_resnet")])
def test_every_method_trains_a_student(tmp_path: Path, teacher: str, student: str) -> None:
    args = ["--teacher", teacher, "--student", student, "--workdir", str(tmp_path), *QUICK]
    rows = distil.job(distil.parse(args))["rows"]
    assert [row["method"] for row in rows] == ["teacher", *METHODS]
    assert all(row["accuracy"] > 0.08 for row in rows)


def test_means_and_gains_are_over_seeds() -> None:
    rows = [{"method": m, "accuracy": a} for m, a in [("teacher", 1), ("alone", 0.8), ("dkd", 0.9), ("dkd", 0.86)]]
    assert distil.means(rows)["dkd"] == pytest.approx((0.88, math.sqrt(2) * 0.02, 2))
    assert "| dkd | 2 | 88.00 ± 2.83 | +8.00 |" in distil.told(rows)


def test_a_method_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        distil.parse(["--methods", "magic"])
    assert "invalid choice: 'magic'" in capsys.readouterr().err
