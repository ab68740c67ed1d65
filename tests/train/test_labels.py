"""Answers of a published network from the command line, and learning from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.test_pretrained import torch_names


@pytest.mark.exhaustive
def test_answers_are_made_once_and_learned_from(tmp_path: Path, here: Callable[..., Any]) -> None:
    np.savez(tmp_path / "tiny.npz", **torch_names())
    own = [f"--weights={tmp_path / 'tiny.npz'}", "--dataset=digits", "--views=2", "--augment=pad_crop(1)"]
    done = here(*own, f"--workdir={tmp_path / 'kept'}", module="train.labels")
    assert done.returncode == 0, done.stderr
    assert f"2,396 answers in {tmp_path / 'kept' / 'labels.array_record'}" in done.stdout
    learned = ["--epochs=1", "--seeds", "0", "--methods", "soft targets", f"--labels={tmp_path / 'kept'}"]
    done = here(*own, *learned, f"--workdir={tmp_path / 'run'}", module="train.distil")
    assert done.returncode == 0, done.stderr
    other = here(*own, "--view_seed=1", *learned, f"--workdir={tmp_path / 'other'}", module="train.distil")
    assert (other.returncode, "seed: 0 there, 1 now" in other.stderr) == (1, True)
