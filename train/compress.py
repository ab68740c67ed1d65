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
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves, replace_leaves
from train.common import data, hosts, image_folder, lock, mirror, phases, report, sealed, teaching, views
from train.common.errors import UserError
from train.common.loop import Phase, fit
from train.common.parallel import DataParallel, data_parallel
from train.common.progress import waiting
from train.common.scoring import predictions, score, score_in_new_process, scored
from train.common.sight import QUIET, Sight
from train.common.stages import Net, begin, recipe_of, stages
from train.common.step import (
    Functions,
    Objective,
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
"""Entries of scores beside fractions."""
SHOWN = 6
"""Test images that are drawn with their answers."""


class Job(NamedTuple):
    """The parts that all phases share.

    Attributes:
      config: of the job.
      dataset: what is learned.
      parallel: how steps run on the devices.
      workdir: the run folder.
      own: functions of the configuration file.
      sight: where numbers are drawn.
    """

    config: ConfigDict
    dataset: data.Dataset
    parallel: DataParallel
    workdir: Path
    own: dict[str, Callable[..., Any]]
    sight: Sight = QUIET


class Trained(NamedTuple):
    """A phase at its end.

    Attributes:
      net: its functions, and the variables that it began with.
      recipe: its compression.
      state: its last state.
      seconds: that it has taken, earlier runs included.
      earlier: of these, those of earlier runs.
    """

    net: Net
    recipe: jc.Compressor
    state: TrainState
    seconds: float
    earlier: float

    @property
    def shown(self) -> Any:
        """The variables as the recipe shows them, on the host."""
        return jax.device_get(jax.jit(lambda state: shown(state, self.recipe))(self.state))

    @property
    def notes(self) -> Any:
        """The recipe's notes on its parameters."""
        params = (self.state.average or {"params": self.state.params})["params"]
        params, compressor = jax.device_get((params, self.state.compressor))
        return self.recipe.describe(params, compressor, int(self.state.step))


def fresh(job: Job, name: str, seed: int) -> Net:
    """The network of the teacher or of the student, with fresh variables."""
    config, dataset = job.config, job.dataset
    model = phases.make_network(config, name, dataset)
    make = job.parallel.make if name == "teacher" else jax.jit  # each host rewrites a student for itself: it is whole
    with waiting(f"making the {name}"):
        variables = make(model.init)(jax.random.key(seed), dataset.train.images[:1])
    return Net(model, phases.make_network(config, name, dataset, job.parallel.axis, training=True), variables)


def train_teacher(job: Job) -> Trained:
    """Trains the teacher from the labels."""
    phase = phases.make_phase(job.config, "teacher", job.dataset)
    net = fresh(job, "teacher", phase.seed)
    return train(job, phase, net, on_outputs(net.spread, label_loss(job.dataset.task)), jc.identity())


def train_student(job: Job, teacher: tuple[Functions, Any]) -> list[Trained]:
    """Trains the student under its teacher, ``(functions, variables)``, stage by stage."""
    config, dataset, ended = job.config, job.dataset, list[Trained]()
    seed = phases.make_phase(config, "student", dataset).seed
    net = fresh(job, "student", seed)
    if config.student.from_teacher:
        net = net._replace(variables=phases.inherit(net.variables, teacher[1]))
    asked = phases.make_network(config, "teacher", dataset, training=True), teacher[1]
    frozen, stored, count = teacher[1], {}, config.distill.views or None
    if count:
        view, per_epoch = phases.make_views(config, dataset), phases.per_epoch(config, dataset)
        answers = teaching.answers(config, teacher, dataset, view, seed, job.workdir)
        frozen, stored = {}, {"beside": answers.beside(per_epoch)}
    for number, stage in enumerate(stages(config, job.own)):
        phase = phases.make_phase(config, "student", dataset, stage, number)
        cut = job.workdir / ("cut.jcz" if stage.name == "student" else f"cut-{stage.name}.jcz")
        with waiting(f"rewriting for {stage.name}"):
            net = begin(stage, net, phases.some_batches(dataset, config), dataset.task, cut)
        recipe = recipe_of(stage, net, phase.steps, first=number == 0)
        objective = teaching.objective(config, asked, (net.model, net.spread), net.variables, dataset)
        how: dict[str, Any] = {"frozen": frozen, "count": count, "seed": seed, **stored}
        ended.append(train(job, phase, net, objective, recipe, **how))
        net = net._replace(variables=ended[-1].shown)
    return ended


def train(
    job: Job,
    phase: Phase,
    net: Net,
    objective: Objective,
    recipe: jc.Compressor,
    *,
    frozen: Any = None,
    count: int | None = None,
    seed: int | None = None,
    **beside: Any,
) -> Trained:
    """Trains a phase.

    Args:
      job: of which it is one.
      phase: its steps and batches.
      net: what is trained.
      objective: what is minimized.
      recipe: of what is trained.
      frozen: the teacher's variables, if there is one.
      count: views of an image, if answers to them are kept.
      seed: of the views; None: the phase's.
      **beside: of :func:`train.common.loop.fit`.
    """
    config, dataset, task = job.config, job.dataset, job.dataset.task
    per_epoch, view = phases.per_epoch(config, dataset), phases.make_views(config, dataset)
    optimizer = phases.make_optimizer(config, phase, per_epoch, rounded=net.integers is not None)
    seen = None if view is None else views.in_step(view, phase.seed if seed is None else seed, per_epoch, task, count)
    if config.label_smoothing:
        seen = views.smoothed(seen, config.label_smoothing, dataset.classes)
    how: dict[str, Any] = {"record_every": phase.record_every, "axis": job.parallel.axis, "views": seen, "task": task}
    step = make_step(objective, recipe, optimizer, **how, parts=config.accumulate, ema=config.ema)
    view_of = jax.jit(lambda state: shown(state, recipe))

    def recorded(state: TrainState) -> dict[str, float]:
        view = view_of(state)
        found = {f"test_{task.metric}": score(net.model, view, dataset.test, task)[task.metric]}
        return (
            found if phase.name == "teacher" else found | {"sparsity": kernel_sparsity(net.in_float(view)[1]["params"])}
        )

    learned = objective.init(jax.random.key(phase.seed + 1))
    network = net.model.infer, net.variables, dataset.train.images[:1]
    watch = job.sight.of(phase.name, phase.batch_size, job.workdir, network)
    begun = functools.partial(init_state, recipe=recipe, optimizer=optimizer, average=config.ema > 0)
    start = job.parallel.make(begun)(net.variables, learned=learned)
    began, frozen = time.monotonic(), {} if frozen is None else frozen
    state, seconds = fit(
        phase, step, start, frozen, dataset, job.parallel, job.workdir, recorded, watch=watch, **beside
    )
    return Trained(net, recipe, state, seconds, max(0.0, seconds - (time.monotonic() - began)))


def ship_after(
    job: Job, name: str, make: Callable[..., Any], student: Functions, view: Any, metadata: Any
) -> dict[str, Any]:
    """Writes what a rewrite after training makes of the student, and scores that in a new process.

    Args:
      job: of which it is a part.
      name: of the file and of its figures.
      make: ``(infer, variables, images) -> rewrite``, a list of batches of images, as those of jc.posttrain take them.
      student: its functions.
      view: its variables.
      metadata: of the file.
    """
    images = [batch["image"] for batch in phases.some_batches(job.dataset, job.config)]
    new, path = make(student.infer, view, images), job.workdir / f"{name}.jcz"
    size = jc.rewrite.save(path, new.apply_fn, new.params, metadata=metadata)
    found = score_in_new_process(path, command_line.DATA_DIR.value, job.config.student.model)
    return {**figures_of(name, found), f"{name}_bytes": size}


def as_integers(bits: int) -> Callable[..., Any]:
    """Makes the integer network: weights are on their grids already, zeros among them; inputs get static ranges."""
    return lambda infer, view, images: jc.posttrain.ptq(infer, view, images, jc.rewrite.Scheme(bits), method="nearest")


def figures_of(whose: str, found: dict[str, Any]) -> dict[str, Any]:
    """The fractions among scores, by names that say whose they are."""
    return {f"{whose}_{name}": value for name, value in found.items() if name not in COUNTS}


def halved(variables: Any, rounded: Collection[str]) -> Any:
    """Biases, norms' parameters and statistics as bfloat16 holds them, in float32: a file has two bytes for each."""
    others = {
        path: leaf.astype(jnp.bfloat16).astype(leaf.dtype)
        for path, leaf in named_leaves(variables).items()
        if leaf.ndim < 2 and path not in rounded and jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    return replace_leaves(variables, others)


def kernel_sparsity(params: Any) -> float:
    """The fraction of zeros among all kernels."""
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    return 1 - sum(map(np.count_nonzero, kernels)) / sum(kernel.size for kernel in kernels)


def described(config: ConfigDict, dataset: data.Dataset) -> dict[str, Any]:
    """The artifact's metadata, by which ``train.evaluate`` makes the model again."""
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


def ship(job: Job, net: Net, student: Functions, packed: Any, view: Any, notes: Any) -> tuple[dict[str, Any], Any]:
    """Writes ``model.jcz`` and what is made after training, if asked; gives bytes and figures, and the first's scores.

    Args:
      job: of which it is a part.
      net: the student.
      student: the functions that ship.
      packed: their variables.
      view: the student's variables as trained.
      notes: of its recipe.
    """
    config, own = job.config, job.own
    inside = {f"params/{name}": note for name, note in notes.items()}
    metadata, path = described(config, job.dataset), job.workdir / "model.jcz"
    lock.check(job.workdir)
    if net.integers is not None:
        size = jc.rewrite.save(path, student.infer, packed, metadata=metadata)
    elif net.rewritten:  # which channels were cut goes with it
        size = jc.rewrite.save(path, student.infer, packed, notes=inside, metadata=metadata)
    else:
        size = jc.pack.save(path, packed, notes=inside, metadata=metadata)
    with waiting("scoring model.jcz in a new process"):
        there = score_in_new_process(path, command_line.DATA_DIR.value, config.student.model)
    after = {"integers": as_integers(config.student.bits)} if config.student.integers else {}
    after |= {"posttrained": own["post_training"]} if "post_training" in own else {}
    found: dict[str, Any] = {"compressed_bytes": size}
    for name, make in after.items():
        with waiting(f"making and scoring {name}.jcz"):
            found |= ship_after(job, name, make, *net.in_float(view), metadata)
    return found, there


def run(job: Job) -> None:
    """Runs the whole job in its workdir."""
    began = time.monotonic()
    taught = train_teacher(job)
    frozen = taught.shown
    ended = train_student(job, (taught.net.model, frozen))
    with waiting("fetching the student"):
        trained = ended[-1].shown
    with hosts.together("finish") as first:
        if first:
            finish(job, began, [taught, *ended], frozen, trained)


def finish(job: Job, began: float, phases_of: list[Trained], frozen: Any, trained: Any) -> None:
    """Ships, scores and reports what was trained.

    Args:
      job: of which it is a part.
      began: when.
      phases_of: the teacher's, and the student's.
      frozen: the teacher's variables as they ship.
      trained: the student's.
    """
    config, dataset, task = job.config, job.dataset, job.dataset.task
    taught, last, images = phases_of[0], phases_of[-1], dataset.test.images[:1]
    teacher = taught.net.model
    student, packed = last.net.shipped(trained, images)
    plain, view = last.net.in_float(trained)
    with waiting("describing the student"):
        notes = {} if last.net.integers is not None else last.notes
    if config.student.others_bits == 16:
        packed = halved(packed, {f"params/{name}" for name, note in notes.items() if note.grid})
    shipped, there = ship(job, last.net, student, packed, trained, notes)
    with waiting("scoring in this one"), jax.default_device(jax.local_devices(backend="cpu")[0]):
        both = (teacher, frozen), (student, packed)
        answers = [predictions(model, variables, dataset.test, task) for model, variables in both]
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
        "teacher_macs": jc.trace.sites(teacher.infer, frozen, images).macs,
        "compressed_macs": jc.trace.sites(plain.infer, view, images).macs,
        "train_seconds": sum(phase.seconds for phase in phases_of),
        "wall_seconds": time.monotonic() - began + sum(phase.earlier for phase in phases_of),
    }
    summary["ratio"] = summary["teacher_bytes"] / summary["compressed_bytes"]
    layers = jc.measure.summary(view["params"], notes=notes)
    lock.check(job.workdir)
    with waiting("writing the report"):
        pictures = task.pictures(dataset.test.images[:SHOWN], dataset.test.labels, *answers)
        trees = {"before": frozen["params"], "after": view["params"]}
        report.write(
            job.workdir, summary, layers, **trees, pictures=pictures, title=task.title, config=config.to_dict()
        )
    sealed.write(job.workdir / "summary.json", summary | sealing(job.workdir))  # the last: with it the run is finished
    report.show(summary, layers, job.workdir)


def main(config: ConfigDict) -> None:
    """Runs the job that the command line asks for; nothing is written before all of it has been checked."""
    config = command_line.resolve(config)
    workdir, drawn = command_line.workdir_of(config), [holder.value for holder in command_line.DRAWN]
    sight = Sight(mirror.shown(str(workdir)), command_line.fields(config), *drawn)
    how = {"mesh": command_line.MESH.value, "axes": command_line.MESH_AXES.value}
    task, parallel = named(config.task), data_parallel(command_line.PARALLEL.value, **how)
    reading: dict[str, Any] = {name: config[name] for name in ("random_crop", "corrupt")}
    where = config.dataset, command_line.DATA_DIR.value, config.image_size or None
    with hosts.together("load"):  # each for itself; what one meets with, all say
        dataset = data.load(*where, task, **reading).read_all()
    hosts.agree({f"data set {config.dataset!r}": dataset.digest})
    own = command_line.own_functions()
    asked = stages(config, own, command_line.PARALLEL.value)
    models = {name: phases.make_network(config, name, dataset) for name in ("teacher", "student")}
    teaching.check(config, models["teacher"], models["student"], dataset, phases.make_views(config, dataset))
    rows = phases.make_phases(config, dataset, asked)
    command_line.claim(workdir, config)
    numbers = {
        name: f"{config[name].model}, {phases.parameters(model, dataset):,} parameters"
        for name, model in models.items()
    }
    told = {row.name: numbers["student"] for row in rows} | {"teacher": numbers["teacher"]}
    report.header(workdir, dataset, told, rows, how["mesh"])
    run(Job(config, dataset, parallel, workdir, own, sight))
