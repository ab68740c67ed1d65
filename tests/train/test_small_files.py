"""Small files of a published network, made from the command line and scored by another process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxcomp as jc
from tests.train.test_pretrained import torch_names
from train import evaluate


@pytest.mark.exhaustive
def test_every_setting_is_scored_as_its_file_is_loaded(here: Callable[..., Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--calibration=2", "--places=16"]
    done = here(*command, "--settings", "rate1e-4", "k4", module="train.small_files")
    assert done.returncode == 0, done.stderr
    more = here(*command, "--settings", "rate1e-4", "k4", "bytes3000", module="train.small_files")
    assert more.returncode == 0, more.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert [row["setting"] for row in summary["rows"]] == ["rate1e-4", "k4", "bytes3000"]
    for row in summary["rows"]:
        path = workdir / f"{row['setting']}.jcz"
        assert row["bytes"] == path.stat().st_size
        assert row["drop"] == pytest.approx(summary["dense"] - row["accuracy"])
        assert evaluate.score_artifact(str(path), None)["accuracy"] == row["accuracy"]
    assert 2_600 < summary["rows"][2]["bytes"] <= 3_000
    kinds = {row.kind for row in jc.pack.inspect(workdir / "rate1e-4.jcz").tensors}
    assert all(kind.startswith(("codes", "table", "plain+gaps")) for kind in kinds), kinds
    assert "4 centers" in (workdir / "k4.txt").read_text()
    held = [*(part for part in command if "workdir" not in part), f"--workdir={tmp_path / 'held'}", "--held_out=64"]
    done = here(*held, "--settings", "rate1e-4", "rate1e-3", "--limits", "100000", module="train.small_files")
    assert done.returncode == 0, done.stderr
    *rows, best = json.loads((tmp_path / "held/summary.json").read_text())["rows"]
    assert [row["setting"] for row in rows if "accuracy" not in row] == ["rate1e-4", "rate1e-3"]
    assert 0 <= rows[0]["lost"] <= rows[1]["lost"]
    assert (best["setting"], best["limit"]) == ("rate1e-4", 100_000)
    assert best["accuracy"] == evaluate.score_artifact(str(tmp_path / "held/rate1e-4.jcz"), None)["accuracy"]
    other = here(*held, "--settings", "rate1e-3", "--limits", "100000", module="train.small_files")
    assert "rate1e-3 " in other.stdout.splitlines()[-1]  # among others, another is chosen
    assert "give --held_out" in here(*command, "--limits", "9", module="train.small_files").stderr
    few = here(*command, "--settings", "bytes10", module="train.small_files")
    assert few.returncode == 1
    assert "cannot be reached" in few.stderr
