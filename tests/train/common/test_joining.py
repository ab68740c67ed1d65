"""Who joins others: a TPU slice by itself, others by flags; what hosts were given must be the same."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train.common import google_vm, hosts, joining
from train.common.errors import UserError

TRIO = {"COORDINATOR": "a:1", "NUM_PROCESSES": 2, "PROCESS_ID": 1}
CASES: list[tuple[dict[str, Any], int, Any]] = [
    ({}, 1, None),
    ({}, 4, (None, None, None, 300)),
    ({"MULTIHOST": False}, 4, None),
    ({"MULTIHOST": True}, 1, (None, None, None, 300)),  # Slurm tells JAX
    (TRIO | {"WAIT": 9}, 1, ("a:1", 2, 1, 9)),
]


def given(monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[Any]:
    """Sets flags, and notes what is joined instead of joining."""
    joined: list[Any] = []
    for name in ("MULTIHOST", "COORDINATOR", "NUM_PROCESSES", "PROCESS_ID", "WAIT"):
        value = values.get(name, 300 if name == "WAIT" else None)
        monkeypatch.setattr(joining, name, SimpleNamespace(value=value))
    monkeypatch.setattr(google_vm, "stop_when_preempted", lambda: None)
    monkeypatch.setattr(hosts, "join", lambda *how: joined.append(how))
    return joined


@pytest.mark.parametrize(("flags", "in_slice", "expected"), CASES)
def test_who_joins(flags: dict[str, Any], in_slice: int, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = given(monkeypatch, **flags)
    monkeypatch.setattr(google_vm, "slice_hosts", lambda: in_slice)
    assert joining.join() == (expected is not None)
    assert joined == ([] if expected is None else [expected])


@pytest.mark.parametrize("left_out", TRIO)
def test_a_part_of_the_flags_is_refused(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = given(monkeypatch, **{name: value for name, value in TRIO.items() if name != left_out})
    with pytest.raises(UserError, match="are given together, or none of them"):
        joining.join()
    assert joined == []


def test_all_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own, values = tmp_path / "of_ones_own.py", {"--config.student.model": "of_ones_own:net", "--config.seed": 0}
    seen = []
    for text in ("a = 1", "a = 2"):
        own.write_text(text)
        importlib.invalidate_caches()
        seen.append(joining._code(values))
    assert list(seen[0]) == ["code of train/", "code of jaxcomp/", "code of of_ones_own"]
    assert [name for name in seen[0] if seen[0][name] != seen[1][name]] == ["code of of_ones_own"]
    assert seen[0]["code of jaxcomp/"] != seen[0]["code of train/"]
    assert len(joining._code({"--config.student.model": "nowhere.at_all:net"})) == 2  # what makes it says so


def test_what_differs_is_listed_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1}]
    monkeypatch.setattr(hosts, "_line", SimpleNamespace(exchange=lambda what, own: said))
    with pytest.raises(UserError, match=r"\n  b: 2 on host 0; 3 on host 1; None on host 2\nGive every host") as refused:
        hosts.agree(said[0])
    assert "  a: " not in str(refused.value)
    said[1:] = [said[0]] * 2
    hosts.agree(said[0])


@pytest.mark.parametrize("refusals", [["", "", "a full disk"], ["mine", "", ""]])
def test_the_refusal_of_one_host_is_that_of_all(refusals: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_line", SimpleNamespace(host=1, exchange=lambda what, own: refusals))
    said = "host 2: a full disk" if refusals[2] else "^mine"
    with pytest.raises(UserError, match=said), hosts.together("write") as first:
        assert not first
    refusals[:] = ["", "", ""]
    with hosts.together("write"):
        pass
