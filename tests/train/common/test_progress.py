"""What is said in a terminal fits it, and is not said elsewhere."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.common import data, progress, report
from train.common.loop import Phase

rich_progress = pytest.importorskip("rich.progress")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "watched", lambda: True)
    monkeypatch.setattr(report, "watched", lambda: True)
    monkeypatch.setattr(
        progress, "_bar", lambda *columns, **options: rich_progress.Progress(*columns, console=console, **options)
    )
    return file


def test_every_number_fits_beside_a_bar_in_80_columns(terminal: io.StringIO) -> None:
    record = {"loss": 12.3456, "accuracy": 1.0, "test_accuracy": 1.0, "sparsity": 1.0}
    with progress.Progress("student", 10_000, 9_999) as bar:
        bar.show(record)
        bar.advance()
    last = terminal.getvalue().rstrip().splitlines()[-2]  # what follows shows the cursor again
    for words in ("student", "10000/10000", "loss 12.3", "train 100.0%", "test 100.0%", "zeros 100.0%", "━━"):
        assert words in last, last


def test_long_work_is_named_with_its_seconds(terminal: io.StringIO) -> None:
    with progress.Progress("teacher", 5) as bar, bar.doing("compiling the step"):
        what, since = bar.doing_since
        bar.doing_since = what, since - 41
        bar._bar.refresh()
    assert "compiling the step ... 41 s" in terminal.getvalue()
    with progress.waiting("writing the report"):
        pass
    assert "writing the report ..." in terminal.getvalue()


def test_nothing_is_said_where_nobody_watches(tmp_path: Path, capfd: Any) -> None:
    with progress.Progress("teacher", 5) as bar, progress.waiting("it"), bar.doing("compiling"):
        bar.show({"loss": 1.0})
        bar.advance()
    report.header(tmp_path, data.load("digits"), {}, [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("steps", "words"), [({}, "(new)"), ({"teacher": 40, "student": 7}, "resuming at student step 7")]
)
def test_the_header_says_where_a_run_goes_on(
    terminal: io.StringIO, tmp_path: Path, capsys: Any, steps: dict[str, int], words: str
) -> None:
    for name, step in steps.items():
        (tmp_path / "checkpoints" / name / str(step)).mkdir(parents=True)
    split = data.Split(np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 10)
    dataset = data.Dataset("dots", 10, lambda _: split)
    phases = [Phase(name, 1000, 10, 64, 0, 0, False) for name in ("teacher", "student")]
    report.header(tmp_path, dataset, dict.fromkeys(("teacher", "student"), "cnn, 5 parameters"), phases)
    said = capsys.readouterr().err
    assert words in said
    assert "40 images of 8x8x1" in said
    assert said.count("cnn, 5 parameters, 1,000 steps of 64 images") == 2
