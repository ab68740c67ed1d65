"""Ways to distil beside each other: taps join any two networks, a run that stopped goes on, and the table adds up."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import distil
from train.common.distillation import METHODS
from train.common.errors import UserError

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
@pytest.mark.parametrize(
    ("teacher", "student", "methods"),
    [("vit", "cnn", ["vid", "attention"]), ("cnn", "tiny_resnet", ["hint"]), ("cnn", "row_lstm", ["similarity"])],
)
def test_taps_join_networks_of_other_kinds(tmp_path: Path, teacher: str, student: str, methods: list[str]) -> None:
    args = ["--teacher", teacher, "--student", student, "--workdir", str(tmp_path), *QUICK]
    rows = distil.job(distil.parse([*args, "--methods", *methods]))["rows"]
    assert [row["method"] for row in rows] == ["teacher", *methods]
    assert all(0 < row["accuracy"] <= 1 for row in rows)


def test_every_method_has_a_finite_loss() -> None:
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 5, 8))
    shapes = {"logits": ((8, 5), (8, 5)), "features": ((8, 6), (8, 9)), "map": ((8, 4, 4, 6), (8, 5, 9))}
    for name, method in METHODS.items():
        student, teacher = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes[method.reads])
        init, term = method.make(student.shape, teacher.shape)
        assert jnp.isfinite(term(init(jax.random.key(0)), student, teacher, labels)), name


def test_means_and_gains_are_over_seeds() -> None:
    rows = [{"method": m, "accuracy": a} for m, a in [("teacher", 1), ("alone", 0.8), ("dkd", 0.9), ("dkd", 0.86)]]
    assert distil.means(rows)["dkd"] == pytest.approx((0.88, math.sqrt(2) * 0.02, 2))
    assert "| dkd | 2 | 88.00 ± 2.83 | +8.00 |" in distil.told(rows)


def test_a_method_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        distil.parse(["--methods", "magic"])
    assert "invalid choice: 'magic'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["epochs", "batch_size", "learning_rate"])
def test_options_out_of_range_are_refused_before_a_folder_is_made(tmp_path: Path, option: str) -> None:
    args = distil.parse(["--workdir", str(tmp_path / "run"), f"--{option}", "0"])
    with pytest.raises(UserError, match=f"--{option} must be above 0, got 0"):
        distil.job(args)
    assert not (tmp_path / "run").exists()
