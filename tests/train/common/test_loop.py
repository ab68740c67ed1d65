"""The loop itself: it records, it stops with an explanation when numbers are no longer finite."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcomp as jc
from train import models
from train.common import data, lock
from train.common.checkpoints import Checkpoints
from train.common.errors import UserError
from train.common.loop import Metrics, Phase, fit, read_metrics
from train.common.parallel import data_parallel
from train.common.sealed import line
from train.common.step import TrainState, hard_loss, init_state, make_step, network, on_outputs

DATASET = data.load("digits")
MODEL = network(models.create("cnn", 10, {"widths": (4,)}), (0.3,), (0.4,))
PHASE = Phase("teacher", steps=10, record_every=4, batch_size=16, seed=0, shift=0, flip=False)


def run(
    workdir: Path,
    optimizer: optax.GradientTransformation,
    score: Callable[[TrainState], dict[str, float]] = lambda state: {},
    phase: Phase = PHASE,
) -> tuple[TrainState, float]:
    step = make_step(on_outputs(MODEL, hard_loss), jc.identity(), optimizer, record_every=PHASE.record_every)
    return fit(phase, step, start(optimizer), {}, DATASET, data_parallel("jit"), workdir, score)


def start(optimizer: optax.GradientTransformation) -> TrainState:
    def init(key: jax.Array) -> TrainState:
        return init_state(MODEL.init(key, DATASET.train.images[:1]), jc.identity(), optimizer)

    return jax.jit(init)(jax.random.key(0))


def breaking_at(step: int) -> optax.GradientTransformation:
    """SGD whose update of one parameter is NaN at a step."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        of_params, of_learned = updates
        bias = jnp.where(state == step, jnp.nan, of_params["Dense_0"]["bias"])
        return ({**of_params, "Dense_0": {**of_params["Dense_0"], "bias": bias}}, of_learned), state + 1

    return optax.chain(optax.sgd(0.1), optax.GradientTransformation(lambda params: jnp.int32(0), update))


def test_records_and_checkpoints(tmp_path: Path) -> None:
    state, seconds = run(tmp_path, optax.sgd(0.1))
    assert int(state.step) == 10
    assert seconds > 0
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["phase"], record["step"]) for record in found] == [("teacher", 4), ("teacher", 8), ("teacher", 10)]
    assert float(state.sums["examples"]) == 2 * 16  # steps 8 and 9
    assert found[-1]["loss"] == float(state.sums["loss"]) / 32
    again, before = run(tmp_path, optax.sgd(0.1))  # nothing is left to do
    assert before > seconds / 2  # the time of the first run is carried on
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(again))
    assert read_metrics(tmp_path / "metrics.jsonl") == found


def test_the_best_scored_state_ends_a_phase_that_asks_for_it(tmp_path: Path) -> None:
    scores = {2: 0.9, 4: 0.2, 6: 0.5, 8: 0.7, 10: 0.6}
    asked = []

    def score(state: TrainState) -> dict[str, float]:
        asked.append(int(state.step))
        return {"test_accuracy": scores[asked[-1]]}

    phase = dataclasses.replace(PHASE, record_every=2, best_from=3, score_every=1)
    state, _ = run(tmp_path, optax.sgd(0.1), score, phase)
    assert (int(state.step), asked) == (8, [2, 4, 6, 8, 10])
    assert Checkpoints(tmp_path / "checkpoints" / "teacher").latest() == 10
    shutil.rmtree(tmp_path / "checkpoints" / "teacher" / "10")  # a run that lost its end finds the same
    assert int(run(tmp_path, optax.sgd(0.1), score, phase)[0].step) == 8
    shutil.rmtree(tmp_path / "checkpoints" / "teacher")  # what was kept then is of no record, and another is best now
    scores[8] = 0.1
    assert int(run(tmp_path, optax.sgd(0.1), score, phase)[0].step) == 10
    shutil.rmtree(tmp_path / "checkpoints" / "teacher" / "10")
    scores[10] = 0.4
    assert int(run(tmp_path, optax.sgd(0.1), score, phase)[0].step) == 6
    asked.clear()
    run(tmp_path / "seldom", optax.sgd(0.1), score, dataclasses.replace(phase, score_every=2))
    assert asked == [4, 8, 10]


def test_what_is_not_finite_is_named_and_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    optimizer = breaking_at(6)
    for _ in range(2):  # started again, it comes to the same end
        with pytest.raises(UserError) as caught:
            run(tmp_path, optimizer)
        first, second = str(caught.value).splitlines()
        assert first == "not finite: Dense_0/bias at teacher step 6."
        assert second.startswith("The checkpoint of step 4 is kept. Lower --learning_rate")
    checkpoints = Checkpoints(tmp_path / "checkpoints" / "teacher")
    state, _ = checkpoints.restore(start(optimizer))
    assert int(state.step) == 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [4]


def test_no_checkpoint_was_saved_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Dense_0/bias at teacher step 0\.\nNo checkpoint was saved yet"):
        run(tmp_path, breaking_at(0))


def test_history_comes_back_from_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, optax.sgd(0.1))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.unlink()
    run(tmp_path, optax.sgd(0.1))
    assert path.read_bytes() == whole
    shutil.rmtree(tmp_path / "checkpoints" / "teacher" / "10")
    path.write_bytes(whole[: len(whole) // 2])
    run(tmp_path, optax.sgd(0.1))
    assert path.read_bytes() == whole


def test_an_altered_line_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = [{"phase": "teacher", "step": 4, "loss": 0.25}, {"phase": "student", "step": 4, "loss": 0.5}]
    lines = [line(record).encode() for record in kept]
    for at in range(len(lines[0]) - 1):
        altered = lines[0][:at] + bytes([lines[0][at] ^ (1 << at % 8)]) + lines[0][at + 1 :]
        path.write_bytes(altered + lines[1])
        for read in (read_metrics, lambda path: Metrics(path, "student", [])):
            with pytest.raises(UserError, match=rf"^{path} is damaged \(line 1: .*\nDelete that file: run the same"):
                read(path)
        assert path.read_bytes() == altered + lines[1]
    path.write_bytes(lines[0] + b"garbage\n" + lines[1])
    with pytest.raises(UserError, match="line 2"):
        read_metrics(path)
    path.write_bytes(b"".join(lines)[:-1])  # only what follows the last end of a line may be torn
    assert read_metrics(path) == kept[:1]


def test_a_data_set_that_was_replaced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, optax.sgd(0.1))
    labels = DATASET.train.labels.copy()
    labels[-1] = (labels[-1] + 1) % 10
    splits = {"train": data.Split(DATASET.train.images, labels), "test": DATASET.test}
    monkeypatch.setattr(sys.modules[__name__], "DATASET", data.Dataset("digits", 10, splits.__getitem__))
    with pytest.raises(UserError, match=r"teacher/10 was saved with another data set than is given now"):
        run(tmp_path, optax.sgd(0.1))


def test_a_folder_that_is_removed_under_it_ends_the_run(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    lock.take(workdir)

    def removing(state: TrainState) -> dict[str, float]:
        if int(state.step) == 8:
            shutil.rmtree(workdir)
        return {}

    with pytest.raises(UserError, match=f"^{workdir} was removed, replaced, or taken over"):
        run(workdir, optax.sgd(0.1), removing)
    assert not workdir.exists()
    lock.release(workdir)


def test_metrics_drop_what_comes_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = [{"phase": "teacher", "step": 9}, {"phase": "student", "step": 4}]
    path.write_text("".join(map(line, [*kept, {"phase": "student", "step": 8}])) + '{"phase": "st')
    Metrics(path, "student", kept[1:]).append({"phase": "student", "step": 8, "loss": 1.0})
    assert read_metrics(path) == [*kept, {"phase": "student", "step": 8, "loss": 1.0}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
