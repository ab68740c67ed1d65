"""The measured tables of the documentation are those of ``bench/``."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.pages import ROOT

results = runpy.run_path(str(ROOT / "docs" / "results.py"))


def test_the_pages_show_what_was_measured(capsys: Any) -> None:
    assert results["main"](["--check"]) == 0, capsys.readouterr().err


def test_a_table_that_differs_is_named_and_written_anew(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(results["main"].__globals__, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "README.md").write_text("nothing\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text("before\n<!-- table: iterative rounds.json -->\n| old |\n<!-- end -->\nafter\n")
    (tmp_path / "bench" / "rounds.json").write_text('{"rows": [{"sparsity": 0.4, "accuracy": 0.9166}]}')
    assert results["main"](["--check"]) == 1
    assert "docs/page.md" in capsys.readouterr().err
    assert results["main"]([]) == 0
    assert "old" not in page.read_text()
    assert "| 40.0 | 91.66 |\n\n<!-- end -->\nafter\n" in page.read_text()
    assert results["main"](["--check"]) == 0
    page.write_text("<!-- table: none rounds.json -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="no table 'none'"):
        results["main"]([])


def test_curves_are_means_over_seeds() -> None:
    rows = [
        {"method": "L1", "asked": 0.9, "sparsity": 0.9, "error": 0.01},
        {"method": "L1", "asked": 0.9, "sparsity": 0.9, "error": 0.03},
        {"method": "L1", "asked": 0.99, "sparsity": 0.98, "error": 0.05},
    ]
    assert results["curves"]({"rows": rows}).splitlines()[2:] == ["| L1 | 2.00 ± 1.41 | 5.00 (1 seed) at 98.00 % |"]


def test_ways_to_distil_are_beside_the_student_alone() -> None:
    rows = [
        {"method": m, "accuracy": a} for m, a in [("teacher", 0.99), ("alone", 0.9), ("alone", 0.92), ("dkd", 0.95)]
    ]
    run = {"settings": {"teacher": "vit", "student": "cnn"}, "rows": rows, "left_out": {"hint": "no maps"}}
    assert results["distilled"]({"runs": [run]}).splitlines() == [
        "| method | vit to cnn |",
        "| --- | ---: |",
        "| teacher | 99.00 (1 seed) |",
        "| alone | 91.00 ± 1.41 |",
        "| dkd | 95.00 (1 seed) (+4.00) |",
        "| hint | nothing to compare |",
    ]
