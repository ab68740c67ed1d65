"""Speeds against a clock that is set by hand, and what programs that draw numbers read."""

import struct
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from train.common import sight
from train.common.errors import UserError
from train.common.sight import Sight, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Drawn:
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self.rows.append((step, numbers))

    def close(self) -> None:
        self.rows.append((-1, {}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(sight, "time", found)
    return found


def steps(watch: Watch, clock: Clock, count: int, seconds: float) -> None:
    for _ in range(count):
        with watch.stepping(None):
            clock.now += seconds


def test_speed_is_that_of_steps_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    board = Drawn()
    watch = Watch("teacher", 32, drawn=[board])
    steps(watch, clock, 1, 9.0)  # compiles
    steps(watch, clock, 4, 0.5)
    watch.pause()
    clock.now += 100  # a score
    watch.record({"phase": "teacher", "step": 5, "loss": 2.0}, 0.2)
    watch.go_on()
    steps(watch, clock, 2, 0.25)
    watch.pause()
    watch.record({"phase": "teacher", "step": 7, "loss": 1.0}, 0.3)
    watch.close(None)
    expected = [
        (5, {"loss": 2.0, "speed/images_per_second": 64.0, "speed/step_seconds": 0.5, "speed/input_wait": 0.1}),
        (7, {"loss": 1.0, "speed/images_per_second": 128.0, "speed/step_seconds": 0.25, "speed/input_wait": 0.2}),
    ]
    assert [(step, pytest.approx(numbers)) for step, numbers in expected] == board.rows[:2]
    assert board.rows[2:] == [(-1, {})]
    assert capsys.readouterr() == ("", "")  # nobody watches


def test_who_watches_is_told(clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "watched", lambda: True)
    monkeypatch.setattr(sight, "peak", lambda kind: 1e12 / jax.device_count())
    watch = Watch("student", 10, operations=1e11)
    steps(watch, clock, 1, 12.0)
    steps(watch, clock, 1, 0.5)
    watch.pause()
    watch.record({"step": 2}, 0.0)
    watch.close(None)
    told = "student: 20 images/s, 500 ms a step, 0% waiting for input, 20% of peak"
    assert capsys.readouterr().err.splitlines() == ["student: compiled in 12 s", told, told]


@pytest.mark.parametrize(
    ("kind", "tera"), [("TPU v5 lite", 197), ("TPU v5", 459), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA L40S", None)]
)
def test_peaks_are_of_the_very_device(kind: str, tera: float | None) -> None:
    assert sight.peak(kind) == (None if tera is None else tera * 1e12)


def test_tensorboard_reads_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="event files need it: pip install tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    watch = Sight(tensorboard=True).of("teacher", 8, tmp_path, (None, None, None))
    watch.record({"step": 4, "loss": 0.5, "phase": "teacher"}, 0.0)
    watch.record({"step": 8, "loss": 0.25}, 0.0)
    watch.close(None)
    (file,) = (tmp_path / "tensorboard" / "teacher").iterdir()
    content, found = file.read_bytes(), []
    while content:  # TFRecord: length, its checksum, the event, its checksum
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + length :]
    assert found == [(4, "loss", 0.5), (8, "loss", 0.25)]


def test_weights_and_biases_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    run = types.SimpleNamespace(log=given.append, finish=lambda: given.append("end"))
    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    fake.init = lambda **how: given.append(how) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):  # a run that goes on is the same one there
        watch = Sight("gs://b/run", {"seed": 1}, wandb="mine").of("student", 8, tmp_path, (None, None, None))
    watch.record({"step": 4, "loss": 0.5}, 0.0)
    watch.close(None)
    assert given[0] == given[1]
    other = tmp_path / "other"
    other.mkdir()
    Sight("gs://b/run", {"seed": 1}, wandb="mine").of("student", 8, other, (None, None, None))
    assert given.pop()["id"] != given[0]["id"]  # another folder of that path, of somebody else
    assert (given[0]["project"], given[0]["config"], given[0]["resume"]) == ("mine", {"seed": 1}, "allow")
    assert given[2:] == [{"student/loss": 0.5, "student/step": 4}, "end"]


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight.boards.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--tensorboard needs a package: pip install tensorboardX"):
        Sight(tensorboard=True)
    with pytest.raises(UserError, match="--wandb=mine needs a package: pip install wandb"):
        Sight(wandb="mine")


@pytest.mark.exhaustive
def test_a_profile_is_of_the_steps_that_are_asked(tmp_path: Path) -> None:
    watch = Sight(profile_steps=2).of("teacher", 8, tmp_path, (None, None, None))
    double, state = jax.jit(lambda x: 2 * x), jnp.ones(3)
    for _ in range(sight.FIRST + 4):
        with watch.stepping(state):
            state = double(state)
    watch.close(state)
    assert len(list((tmp_path / "profile" / "teacher").rglob("*.xplane.pb"))) == 1
