"""The main job: teach a network, compress it while a teacher watches, pack it, and prove what was packed.

    python -m train.compress --dataset mnist --config.student.sparsity=0.9
    python -m train.compress --task detection

A run that was stopped goes on when the same command is given again, and ends as if it had not been stopped.
"""

# ruff: noqa: E402 -- what needs neither JAX nor data is answered before they are imported

from absl import flags

from train.common import command_line

flags.adopt_module_key_flags(command_line)  # so that --helpshort lists them

if __name__ == "__main__":
    command_line.run("train.compress")  # which is this file, imported under its own name

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import jaxcomp as jc
from train.common import data, image_folder, lock, phases, report, sealed, teaching, views
from train.common.cutting import cut
from train.common.errors import UserError
from train.common.loop import fit
from train.common.parallel import DataParallel, data_parallel
from train.common.progress import waiting
from train.common.scoring import predictions, score, scored
from train.common.step import (
    Functions,
    TrainState,
    init_state,
    label_loss,
    make_step,
    on_outputs,
    shown,
)
from train.common.workdir import sealing
from train.tasks import named

COUNTS = ("correct", "undefined", "examples", "predictions")
"""What scores hold beside fractions."""
SHOWN = 6
"""Test images that are drawn with their answers."""


class Trained(NamedTuple):
    """A phase at its end.

    Attributes:
      model: its functions.
      recipe: its compression.
      state: its last state.
      seconds: that it has taken, earlier runs included.
      earlier: of these, those of earlier runs.
    """

    model: Functions
    recipe: jc.Compressor
    state: TrainState
    seconds: float
    earlier: float


def train_phase(
    config: ConfigDict, name: str, dataset: data.Dataset, parallel: DataParallel, workdir: Path, teacher: Any = None
) -> Trained:
    """Trains the teacher, or the student under its teacher ``(functions, variables)``."""
    fields, phase = config[name], phases.make_phase(config, name, dataset)
    model = phases.make_network(config, name, dataset)
    optimizer = phases.make_optimizer(config, name, phase, len(dataset.train) // phase.batch_size)
    with waiting(f"making the {name}"):
        variables = jax.jit(model.init)(jax.random.key(phase.seed), dataset.train.images[:1])
    spread, task = phases.make_network(config, name, dataset, parallel.axis, training=True), dataset.task
    per_epoch, view = len(dataset.train) // phase.batch_size, phases.make_views(config, dataset)
    recipe, frozen, objective, count, stored = jc.identity(), {}, on_outputs(spread, label_loss(task)), None, {}
    if teacher is not None:
        if fields.from_teacher:
            variables = phases.inherit(variables, teacher[1])
        if fields.macs < 1:
            with waiting("cutting channels"):
                some, path = phases.some_batches(dataset, config), workdir / "cut.jcz"
                model, variables = cut(Functions(model.infer, spread.learn), variables, some, task, fields.macs, path)
            spread = model
        recipe = phases.make_recipe(config, phase.steps)
        asked = phases.make_network(config, "teacher", dataset, training=True), teacher[1]
        objective = teaching.objective(config, asked, (model, spread), variables, dataset)
        frozen, count = teacher[1], config.distill.views or None
        if count:
            frozen, answers = {}, teaching.answers(config, teacher, dataset, view, phase.seed, workdir)
            stored = {"beside": answers.beside(per_epoch)}
    seen = None if view is None else views.in_step(view, phase.seed, per_epoch, task, count)
    if config.label_smoothing:
        seen = views.smoothed(seen, config.label_smoothing, dataset.classes)
    how: dict[str, Any] = {"record_every": phase.record_every, "axis": parallel.axis, "views": seen, "task": task}
    step = make_step(objective, recipe, optimizer, **how, parts=config.accumulate, ema=config.ema)
    view_of = jax.jit(lambda state: shown(state, recipe))

    def recorded(state: TrainState) -> dict[str, float]:
        view = view_of(state)
        found = {f"test_{task.metric}": score(model, view, dataset.test, task)[task.metric]}
        return found if teacher is None else found | {"sparsity": kernel_sparsity(view["params"])}

    learned = objective.init(jax.random.key(phase.seed + 1))
    begin = functools.partial(init_state, recipe=recipe, optimizer=optimizer, average=config.ema > 0)
    start = jax.jit(begin)(variables, learned=learned)
    began = time.monotonic()
    state, seconds = fit(phase, step, start, frozen, dataset, parallel, workdir, recorded, **stored)
    return Trained(model, recipe, state, seconds, max(0.0, seconds - (time.monotonic() - began)))


def ship_integers(
    student: Functions, view: Any, config: ConfigDict, dataset: data.Dataset, path: Path, metadata: Any
) -> dict[str, Any]:
    """Makes of the student a network that computes in integers, and scores that in a new process.

    Its weights are on their grids already, zeros among them; batch norms are folded, and inputs get static ranges.
    """
    images = [batch["image"] for batch in phases.some_batches(dataset, config)]
    new = jc.posttrain.ptq(student.infer, view, images, jc.rewrite.Scheme(config.student.bits), method="nearest")
    size = jc.rewrite.save(path, new.apply_fn, new.params, metadata=metadata)
    found = score_in_new_process(path, config.student.model)
    return {**figures_of("integers", found), "integers_bytes": size}


def figures_of(whose: str, found: dict[str, Any]) -> dict[str, Any]:
    """The fractions among scores, by names that say whose they are."""
    return {f"{whose}_{name}": value for name, value in found.items() if name not in COUNTS}


def kernel_sparsity(params: Any) -> float:
    """The fraction of zeros among all kernels."""
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    return 1 - sum(map(np.count_nonzero, kernels)) / sum(kernel.size for kernel in kernels)


def score_in_new_process(artifact: Path, model: str) -> dict[str, Any]:
    """What a fresh interpreter, which has only the file and knows its model, scores.

    Raises:
      UserError: if it fails; its last words are shown.
    """
    command = [sys.executable, "-m", "train.evaluate", f"--artifact={artifact.absolute()}"]
    command += [f"--model={model}"] if ":" in model else []
    if command_line.DATA_DIR.value:
        command.append(f"--data_dir={Path(command_line.DATA_DIR.value).absolute()}")
    # This process holds the accelerator, so the other one computes on the CPU.
    root, known = Path(__file__).parent.parent, os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [known])])  # models of one's own are found from here
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the artifact could not be scored in a new process:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def described(config: ConfigDict, dataset: data.Dataset) -> dict[str, Any]:
    """What an artifact says of itself, by which ``train.evaluate`` makes the model again."""
    mean, std = dataset.moments()
    return {
        **({} if dataset.task.whole else {"task": config.task}),  # a file that names none is of a classifier
        "model": config.student.model,
        "options": config.student.options.to_dict(),
        "classes": dataset.classes,
        "dataset": image_folder.absolute(config.dataset),
        "image_size": config.image_size,
        "mean": mean,
        "std": std,
    }


def ship(
    config: ConfigDict, dataset: data.Dataset, workdir: Path, compressed: Trained, view: Any, notes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes ``model.jcz``, and ``integers.jcz`` if asked; gives bytes and figures, and the scores of the first."""
    inside = {f"params/{name}": note for name, note in notes.items()}
    metadata, path, student = described(config, dataset), workdir / "model.jcz", compressed.model
    lock.check(workdir)
    if config.student.macs < 1:  # which channels were cut goes with it
        size = jc.rewrite.save(path, student.infer, view, notes=inside, metadata=metadata)
    else:
        size = jc.pack.save(path, view, notes=inside, metadata=metadata)
    with waiting("scoring model.jcz in a new process"):
        there = score_in_new_process(path, config.student.model)
    integers = {}
    if config.student.integers:
        with waiting("making and scoring integers.jcz"):
            integers = ship_integers(student, view, config, dataset, workdir / "integers.jcz", metadata)
    return {"compressed_bytes": size, **integers}, there


def job(config: ConfigDict, dataset: data.Dataset, workdir: Path) -> None:
    """Runs the whole job in a workdir."""
    began, task = time.monotonic(), dataset.task
    parallel = data_parallel(command_line.PARALLEL.value)
    taught = train_phase(config, "teacher", dataset, parallel, workdir)
    teacher, frozen = taught.model, jax.device_get(shown(taught.state, taught.recipe))
    compressed = train_phase(config, "student", dataset, parallel, workdir, (teacher, frozen))
    student, recipe, state, _, _ = compressed
    with waiting("fetching the student"):
        view = jax.device_get(jax.jit(lambda state: shown(state, recipe))(state))
    if jax.process_index() != 0:
        return
    with waiting("describing the student"):
        notes = recipe.describe(
            jax.device_get((state.average or {"params": state.params})["params"]),
            jax.device_get(state.compressor),
            int(state.step),
        )
    shipped, there = ship(config, dataset, workdir, compressed, view, notes)
    with waiting("scoring in this one"), jax.default_device(jax.local_devices(backend="cpu")[0]):
        answers = [predictions(*of, dataset.test, task) for of in ((teacher, frozen), (student, view))]
    before, here = (scored(answer, dataset.test, task) for answer in answers)
    if json.loads(json.dumps(here)) != there:
        raise UserError(f"the artifact does not compute what was trained: {there} in a new process, {here} in this one")
    summary = {
        **{name: config[name] for name in ("task", "dataset", "seed")},
        "metric": task.metric,
        **figures_of("teacher", before),
        **figures_of("compressed", there),
        "teacher_bytes": 4 * sum(leaf.size for leaf in jax.tree.leaves(frozen["params"])),
        **shipped,
        "sparsity": kernel_sparsity(view["params"]),
        "examples": there["examples"],
        "predictions": there["predictions"],
        "teacher_macs": jc.trace.sites(teacher.infer, frozen, dataset.test.images[:1]).macs,
        "compressed_macs": jc.trace.sites(student.infer, view, dataset.test.images[:1]).macs,
        "train_seconds": taught.seconds + compressed.seconds,
        "wall_seconds": time.monotonic() - began + taught.earlier + compressed.earlier,
    }
    summary["ratio"] = summary["teacher_bytes"] / summary["compressed_bytes"]
    layers = jc.measure.summary(view["params"], notes=notes)
    lock.check(workdir)
    with waiting("writing the report"):
        pictures = task.pictures(dataset.test.images[:SHOWN], dataset.test.labels, *answers)
        trees = {"before": frozen["params"], "after": view["params"]}
        report.write(workdir, summary, layers, **trees, pictures=pictures, title=task.title, config=config.to_dict())
    sealed.write(workdir / "summary.json", summary | sealing(workdir))  # the last: with it the run is finished
    report.show(summary, layers, workdir)


def main(config: ConfigDict) -> None:
    """Runs the job that the command line asks for; nothing is written before all of it has been checked."""
    config = command_line.resolve(config)
    if command_line.MULTIHOST.value:
        command_line.join_hosts()
    if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
        jax.config.update("jax_platforms", f"{platforms},cpu")  # what ships is scored on the CPU
    task = named(config.task)
    reading: dict[str, Any] = {name: config[name] for name in ("random_crop", "corrupt")}
    where = config.dataset, command_line.DATA_DIR.value, config.image_size or None
    dataset = data.load(*where, task, **reading).read_all()
    models = {name: phases.make_network(config, name, dataset) for name in ("teacher", "student")}
    teaching.check(config, models["teacher"], models["student"], dataset, phases.make_views(config, dataset))
    workdir = command_line.workdir_of(config)
    command_line.claim(workdir, config)
    report.header(
        workdir,
        dataset,
        {
            name: f"{config[name].model}, {phases.parameters(model, dataset):,} parameters"
            for name, model in models.items()
        },
        [phases.make_phase(config, name, dataset) for name in models],
    )
    job(config, dataset, workdir)
