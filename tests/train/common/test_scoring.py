"""A file is scored by another process, which leaves the accelerator to this one and whose failure is told."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from train.common.errors import UserError
from train.common.scoring import score_in_new_process


def test_it_computes_on_the_cpu_and_finds_data_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], **how: Any) -> Any:
        seen.update(how, command=command)
        return subprocess.CompletedProcess(command, 0, 'a note\n{"accuracy": 0.5}\n', "")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    assert score_in_new_process(Path("a.jcz"), "sets", "nets:tiny") == {"accuracy": 0.5}
    assert seen["env"]["JAX_PLATFORMS"] == "cpu"
    assert seen["env"]["PYTHONPATH"].startswith(str(tmp_path))
    assert seen["command"][3:] == [f"--artifact={tmp_path}/a.jcz", "--model=nets:tiny", f"--data_dir={tmp_path}/sets"]
    score_in_new_process(Path("a.jcz"), None, "cnn")
    assert seen["command"][3:] == [f"--artifact={tmp_path}/a.jcz"]


def test_its_last_words_are_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jcz could not be scored in a new process:\n.*a\.jcz"):
        score_in_new_process(tmp_path / "a.jcz", None)
