"""A published network is quantized from the command line; a run that stopped goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxcomp as jc
from tests.train.conftest import Cli
from tests.train.test_pretrained import torch_names
from train import evaluate, quantize
from train.common.errors import UserError


@pytest.mark.exhaustive
def test_every_setting_is_scored_once(cli: Cli, here: Callable[..., Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    workdir = tmp_path / "run"
    command = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--batch_size=16", f"--workdir={workdir}"]
    command += ["--calibration=2", "--places=16"]
    first = cli(*command, "--settings", "w4", module="train.quantize")
    assert first.returncode == 0, first.stderr
    done = here(*command, "--settings", "w4", "w8a8d", "mixed4000a8", module="train.quantize")
    assert done.returncode == 0, done.stderr
    summary = json.loads((workdir / "summary.json").read_text())
    assert [row["setting"] for row in summary["rows"]] == ["w4", "w8a8d", "mixed4000a8"]
    for row in summary["rows"]:
        assert row["drop"] == pytest.approx(summary["dense"] - row["accuracy"])
        assert row["bytes"] == (workdir / f"{row['setting']}.jcz").stat().st_size
    assert "static" not in (workdir / "w4.txt").read_text()
    assert "dynamic 8" in (workdir / "w8a8d.txt").read_text()
    for row in summary["rows"]:
        assert evaluate.score_artifact(str(workdir / f"{row['setting']}.jcz"), None)["accuracy"] == row["accuracy"]
    assert "| w8a8d |" in done.stdout
    assert summary["rows"][2]["bytes"] < 4000
    assert len((workdir / "sensitivity-8.txt").read_text().splitlines()) > 5
    assert (workdir / "sensitivity-8.png").stat().st_size > 10_000
    few = here(*command, "--settings", "mixed10a8", module="train.quantize")
    assert (few.returncode, "the cheapest choices take" in few.stderr) == (1, True), few.stderr
    other = here(*command, "--damping=0.1", module="train.quantize")
    assert (other.returncode, "damping: '0.01' there, '0.1' now" in other.stderr) == (1, True)


def test_mixed_bits_leave_the_reach_of_grids_to_the_data() -> None:
    fine = jc.rewrite.Scheme(fit=jc.quant.mse())
    rows = [
        jc.search.SensitivityRow("w", (4,), str(bits), fine._replace(bits=bits), 1 / bits, bits, bits, bits)
        for bits in (2, 4)
    ]
    found = jc.search.Sensitivity(tuple(rows))
    assert quantize.allocated(found, 3) == {"w": jc.rewrite.Scheme(2)}
    with pytest.raises(UserError, match="the cheapest choices take 2"):
        quantize.allocated(found, 1)


def test_settings() -> None:
    assert quantize.Setting.of("w2") == quantize.Setting(2, None, "static")
    assert all(quantize.Setting.of(name) for name in quantize.SETTINGS)
    assert {name for own in quantize.PEERS.values() for name in own} <= set(quantize.SETTINGS)
    assert quantize.Setting.of("mixed60000a8") == quantize.Setting(None, 8, "static", 60_000)
    for name in ("w9", "a8", "w4d", "w4a", "mixed", "mixed60000a8d", "w4mixed10"):
        with pytest.raises(UserError, match="a setting is like w4"):
            quantize.Setting.of(name)
