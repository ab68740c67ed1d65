"""Answers of a published network from the command line, and learning from them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest

from jaxcomp.core import buckets
from tests.train.test_pretrained import torch_names
from train import labels
from train.common import mirror
from train.common.errors import exit_status


def test_answers_for_a_bucket_are_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_open", {})
    fsspec.filesystem("memory").store.clear()

    def answered(whole: Any, args: Any, folder: Path) -> Any:
        (folder / "labels.array_record").write_bytes(b"1")
        return SimpleNamespace(about={"images": 1}, path=folder / "labels.array_record")

    monkeypatch.setattr(labels, "answers", answered)
    monkeypatch.setattr(labels.Published, "read", lambda *_: None)
    args = labels.parse(["--weights=a.npz", "--dataset=digits", "--workdir=memory://bucket/labels"])
    assert exit_status(lambda: labels.job(args)) == 0
    assert "labels.array_record" in buckets.sizes("memory://bucket/labels")


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
