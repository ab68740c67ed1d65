"""The training loop: resumable to the bit, stopped by SIGTERM without loss, stopped by NaN with an explanation."""

import dataclasses
import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxcomp.core.files import naming, write_atomically
from jaxcomp.core.paths import named_leaves
from train.common import data, hosts, lock, mirror, sealed
from train.common.checkpoints import Checkpoints
from train.common.errors import GO_ON, UserError
from train.common.feed import Feed
from train.common.parallel import DataParallel, own_rows
from train.common.progress import Progress, waiting
from train.common.sight import Watch
from train.common.signals import Stopped
from train.common.step import TrainState


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run within a job.

    Attributes:
      name: ``"teacher"`` or ``"student"``: names its checkpoints and its records.
      steps: in all.
      record_every: steps from one metrics record, test score and checkpoint to the next.
      batch_size, seed, shift, flip: of :func:`train.common.data.train_batch`.
      rate: the option that sets the learning rate, for those whose training diverges.
      learning_rate: at its peak.
      score_every: records from one score to the next; the last is always scored.
      best_from: the step from which on the state that is scored best is what the phase ends with; None: the last is.
      parts: of a batch, computed one after the other.
      repeats: of :func:`train.common.data.train_batch`.
    """

    name: str
    steps: int
    record_every: int
    batch_size: int
    seed: int
    shift: int
    flip: bool
    rate: str = "--learning_rate"
    learning_rate: float = 0.0
    score_every: int = 1
    best_from: int | None = None
    parts: int = 1
    repeats: int = 1


def fit(
    phase: Phase,
    step: Callable[..., TrainState],
    start: TrainState,
    frozen: Any,
    dataset: data.Dataset,
    parallel: DataParallel,
    workdir: Path,
    score: Callable[[TrainState], dict[str, float]],
    beside: Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda step, batch: batch,
    watch: Watch | None = None,
) -> tuple[TrainState, float]:
    """Trains one phase to its end, from its last checkpoint if the workdir holds one.

    Args:
      phase: what to run.
      step: ``(state, frozen, batch) -> state``, not yet compiled.
      start: the state before the first step.
      frozen: what the step reads and nobody trains.
      dataset: its training split is learned from.
      parallel: how the step runs on the devices.
      workdir: holds ``checkpoints/`` and ``metrics.jsonl``.
      score: what to record of a state beside loss and training accuracy.
      beside: ``(step, batch) -> batch`` with what else the step reads: a teacher's stored answers.
      watch: measures steps, and draws numbers beside the terminal.

    Returns:
      The last state, and the seconds that the phase has taken, earlier runs included.

    Raises:
      Stopped: on SIGTERM, once the state is saved.
      UserError: when loss or parameters are no longer finite, a checkpoint is damaged, cannot be written or is of
        other data or another configuration, ``metrics.jsonl`` is damaged, or the workdir was removed or taken over.
    """
    checkpoints = Checkpoints(workdir / "checkpoints" / phase.name, _origin(workdir, dataset))
    names = ["loss", *named_leaves(start.params)]
    began, before = time.monotonic(), 0.0
    state = start
    if checkpoints.latest() is not None:
        state, before = checkpoints.restore(start)
    at = int(state.step)
    metrics = Metrics(workdir / "metrics.jsonl", phase.name, checkpoints.records)
    best = Best(phase, workdir / "checkpoints", _origin(workdir, dataset), metrics)
    compiled, shared, frozen = parallel.compile(step, start), parallel.put(state), parallel.put(frozen)

    def check_workdir() -> None:
        with hosts.together():
            lock.check(workdir)

    def save(state: TrainState) -> None:
        _check_finite(state, names, phase, checkpoints)
        check_workdir()
        checkpoints.save(int(state.step), state, before + time.monotonic() - began)
        with hosts.together("put into the bucket") as first:
            if first:
                mirror.push(workdir)

    watch = watch or Watch(phase.name, phase.batch_size)
    feed = Feed(batches(phase, dataset.train, parallel, beside), at, phase.steps)
    with Progress(phase.name, phase.steps, at) as progress, _Sigterm() as asked_to_stop, feed:
        while at < phase.steps:
            batch = feed.take(shared.step)
            with progress.doing("compiling the step"), watch.stepping(shared):  # once; afterwards a call takes no time
                shared = compiled(shared, frozen, batch)
            at += 1
            if at % phase.record_every == 0 or at == phase.steps:
                state = parallel.get(shared)
                _check_finite(state, names, phase, checkpoints)
                watch.pause()
                with progress.doing("scoring test images"):
                    due = at == phase.steps or at // phase.record_every % phase.score_every == 0
                    record = _record(state, phase.name) | (score(state) if due else {})
                check_workdir()
                best.offer(state, record)
                metrics.append(record)
                progress.show(record)
                watch.record(record, feed.idle)
                save(state)
                watch.go_on()
            progress.advance()
            if asked_to_stop():
                save(parallel.get(shared))
                best.close()
                checkpoints.close()
                raise Stopped(f"stopped by SIGTERM at {phase.name} step {at}; {GO_ON}")
    watch.close(shared)
    feed.tell(phase.name)
    end = best.state(parallel.get(shared))
    with waiting("closing checkpoints"):
        best.close()
        checkpoints.close()
    return end, before + time.monotonic() - began


def batches(
    phase: Phase,
    split: data.Split,
    parallel: DataParallel,
    beside: Callable[[int, dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda step, batch: batch,
) -> Callable[[int], Any]:
    """``step -> batch`` on the devices, of which this host reads its own rows alone."""
    size = min(phase.batch_size, len(split))
    count = size + -size % (parallel.size * phase.parts)
    rows = own_rows(count)

    def make(step: int) -> Any:
        how: dict[str, Any] = {"shift": phase.shift, "flip": phase.flip, "repeats": phase.repeats, "rows": rows}
        batch = data.train_batch(split, step, phase.batch_size, phase.seed, **how)
        return parallel.place(data.fill(beside(step, batch), rows.stop - rows.start))

    return make


class Best:
    """The state of a phase that is scored best from a step on, in a checkpoint of its own.

    It is the newest there. A run that goes on forgets those that its records do not tell of: what was scored best may
    be another where devices are others.
    """

    def __init__(self, phase: Phase, folder: Path, of: dict[str, str], metrics: "Metrics") -> None:
        """Opens ``checkpoints/PHASE-best``, unless the last state is what counts."""
        last = phase.best_from is None or phase.best_from >= phase.steps
        self._from, self._metrics = phase.best_from or 0, metrics
        self._kept = None if last else Checkpoints(folder / f"{phase.name}-best", of)
        if self._kept is not None:
            self._kept.forget(after=max((record["step"] for record in metrics.records), default=0))

    def offer(self, state: TrainState, record: dict[str, Any]) -> None:
        """Keeps a state that is scored higher than all before; called before its record is added."""
        own = self._score(record)
        if self._kept is None or own is None:
            return
        best = next((self._score(each) for each in self._metrics.records if each["step"] == self._kept.latest()), None)
        if best is None or own > best:
            self._kept.save(int(state.step), state, 0.0)

    def _score(self, record: dict[str, Any]) -> Any:
        found = [value for name, value in record.items() if name.startswith("test_")]
        return found[0] if found and record["step"] >= self._from else None

    def state(self, last: TrainState) -> TrainState:
        """The state that the phase ends with."""
        if self._kept is None or self._kept.latest() is None:
            return last
        return self._kept.restore(last)[0]

    def close(self) -> None:
        """Releases the folder."""
        if self._kept is not None:
            self._kept.close()


def _origin(workdir: Path, dataset: data.Dataset) -> dict[str, str]:
    """The identity of checkpoints: the records of the data set, and the configuration that the run folder holds."""
    path = workdir / "config.json"
    settings = {"configuration": sealed.digest(sealed.read(path, f"{GO_ON}."))} if path.exists() else {}
    return {"data set": dataset.digest, **settings}


def _record(state: TrainState, phase: str) -> dict[str, Any]:
    sums = {name: float(value) for name, value in state.sums.items()}
    return {
        "phase": phase,
        "step": int(state.step),
        "loss": sums["loss"] / sums["examples"],
        "accuracy": sums["correct"] / sums["examples"],
    }


def _check_finite(state: TrainState, names: list[str], phase: Phase, checkpoints: Checkpoints) -> None:
    trouble = np.asarray(state.trouble)
    if not trouble.any():
        return
    first = trouble[trouble > 0].min()
    where = [name for name, when in zip(names, trouble, strict=True) if when == first]
    kept = checkpoints.latest()
    raise UserError(
        f"not finite: {', '.join(where[:6])}{', ...' if len(where) > 6 else ''} at {phase.name} step {first - 1}.\n"
        + (f"The checkpoint of step {kept} is kept. " if kept is not None else "No checkpoint was saved yet. ")
        + f"Lower {phase.rate}, or look for bad values in the data, and start again in a new workdir."
    )


class Metrics:
    """``metrics.jsonl``: one record a line, holding nothing that differs from one run of the same job to the next.

    Attributes:
      records: of the phase, so far.
    """

    def __init__(self, path: Path, phase: str, records: list[dict[str, Any]]) -> None:
        """Opens the file for a phase that goes on after these records: it then holds them, and no others of the phase.

        Raises:
          UserError: if the file is damaged.
        """
        self.path, self.records = path, records
        with hosts.together() as first:
            if first:
                self._begin(phase)

    def _begin(self, phase: str) -> None:
        found = read_metrics(self.path)
        first = next((i for i, record in enumerate(found) if record["phase"] == phase), len(found))
        before, after = ([r for r in part if r["phase"] != phase] for part in (found[:first], found[first:]))
        write_atomically(self.path, "".join(map(sealed.line, [*before, *self.records, *after])).encode())

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record, and hands it to the system at once."""
        self.records.append(record)
        with hosts.together() as first, naming(self.path):
            if first:
                with self.path.open("a") as file:
                    file.write(sealed.line(record))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, without a last line that a kill has torn; none, where there is no file.

    Raises:
      UserError: if another line is not what was written.
    """
    *lines, _torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(sealed.unlined(line.decode()))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged (line {number}: {error}).\nDelete that file: {GO_ON}; checkpoints hold the records "
                "of their own phase."
            ) from error
    return records


class _Sigterm:
    """Within the block SIGTERM sets a flag, which the block asks for by calling what it was given.

    With several hosts, a signal to one stops all of them after the same step: JAX's preemption service, which took
    the signal over in ``jax.distributed.initialize``, agrees on it.
    """

    _asked = itertools.count()  # the service wants a number that rises over all phases

    def __enter__(self) -> Callable[[], bool]:
        self._received = False
        if jax.process_count() > 1:
            return lambda: multihost_utils.reached_preemption_sync_point(next(self._asked))
        self._previous = signal.signal(signal.SIGTERM, self._receive)
        return lambda: self._received

    def _receive(self, *_: Any) -> None:
        self._received = True

    def __exit__(self, *_: Any) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)
