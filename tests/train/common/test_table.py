"""A point is measured once, whatever stops the run between two of them."""

from pathlib import Path
from typing import Any

import pytest

from train.common.errors import UserError
from train.common.table import Table


@pytest.mark.parametrize("stopped_after", range(4))
def test_every_point_is_measured_once_over_all_runs(tmp_path: Path, capsys: Any, stopped_after: int) -> None:
    measured: list[int] = []

    def run(last: int) -> Table:
        table = Table(tmp_path, lambda row: f"{row['bits']} bits", name="points")
        assert table.fact("dense", lambda: 0.5) == 0.5
        for bits in range(last):
            table.row(lambda bits=bits: {"accuracy": measured.append(bits) or bits / 10}, bits=bits)
        return table

    run(stopped_after)
    table = run(3)
    assert measured == [0, 1, 2]
    assert table.rows == [{"bits": bits, "accuracy": bits / 10} for bits in range(3)]
    table.write(seconds=1.0)
    again = Table(tmp_path, str, name="points").summary
    assert again == {"points": table.rows, "dense": 0.5, "seconds": 1.0}
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == ["0 bits", "1 bits", "2 bits"]  # known or not, the second run prints them all


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    Table(tmp_path, str).row(lambda: {}, a=1)
    path = tmp_path / "summary.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        Table(tmp_path, str)
