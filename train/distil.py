"""Compares ways to distil: one teacher, one student, every method and seed, and what each gains over labels alone.

    python -m train.distil [--teacher cnn --student lenet300] [--dataset mnist] [--methods dkd hint] [--seeds 0 1 2]

    python -m train.distil --weights resnet20.npz --start teacher --zeros 0.8 --dataset cifar10 --methods alone hint

The teacher is trained once, or read from ``--weights``. Losses on features read them out of the networks as they are
(jc.trace.tap). Methods that cannot compare the two networks are left out, and why is said. With ``--views`` the
teacher runs once, and its answers are kept. Nothing is chosen by the test accuracy. A run that was stopped goes on
where it was.
"""

import argparse
import functools
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxcomp as jc
from jaxcomp.core.files import naming
from train import models, shrink
from train.common import data, distillation, mirror, optimizers, options, students, views
from train.common.distilled import drawn, told
from train.common.errors import UserError, exit_status
from train.common.labels import Labels
from train.common.loop import Phase, fit
from train.common.parallel import data_parallel
from train.common.published import Published, claim, fixed, reopen
from train.common.scoring import score
from train.common.step import Functions, Objective, Variables, hard_loss, init_state, make_step, network, on_outputs
from train.common.table import Table
from train.labels import answers
from train.models.pretrained import HOW_TO_EXPORT

FREE = ("methods", "seeds")  # what may change from one run in a folder to the next
POSITIVE = ("epochs", "teacher_epochs", "batch_size", "learning_rate", "record_every")


class Job(NamedTuple):
    """A teacher, a student, and what is learned.

    Attributes:
      args: the options.
      teacher: the network, and the data set.
      student: what learns from it.
      taps: what of both is compared.
      labels: the teacher's answers, if it runs once.
      view: what is done to training images; None: nothing.
    """

    args: argparse.Namespace
    teacher: Published
    student: students.Student
    taps: distillation.Taps
    labels: Labels | None
    view: jc.augment.Augmentation | None


@functools.lru_cache(maxsize=2)
def step_of(objective: Objective, recipe: jc.Compressor, optimizer: Any, every: int, seen: views.Views | None) -> Any:
    """One step for all seeds of a method, which is compiled once."""
    return make_step(objective, recipe, optimizer, record_every=every, views=seen)


optimizer_of = functools.lru_cache(maxsize=2)(optimizers.make)


@functools.lru_cache(maxsize=2)
def views_of(view: jc.augment.Augmentation, per_epoch: int, seed: int, count: int | None) -> views.Views:
    """Images as a step shows them."""
    return views.in_step(view, seed, per_epoch, count=count)


def train(
    args: argparse.Namespace,
    name: str,
    epochs: float,
    model: Functions,
    variables: Variables,
    objective: Objective,
    dataset: data.Dataset,
    view: jc.augment.Augmentation | None,
    *,
    seed: int,
    recipe: jc.Compressor | None = None,
    frozen: Any = None,
    labels: Labels | None = None,
) -> Variables:
    """Trains from the last checkpoint of that name, if there is one.

    Args:
      args: batch size, optimizer, learning rate, weight decay, what is recorded, and the run folder.
      name: of the phase.
      epochs: how often each image is seen.
      model: what is trained.
      variables: where it begins.
      objective: what is minimized.
      dataset: what is learned.
      view: what is done to images; None: nothing.
      seed: of the order of images and, without labels, of their views.
      recipe: whose view is trained; None: the variables themselves.
      frozen: what the objective reads and nobody trains.
      labels: the teacher's answers, which bring the seed of views with them.

    Returns:
      The variables at the end, as the recipe shows them.
    """
    recipe, size = recipe or jc.identity(), min(args.batch_size, len(dataset.train))
    per_epoch = len(dataset.train) // size
    steps = max(1, round(epochs * per_epoch))
    every = min(args.record_every, steps)
    optimizer = optimizer_of(args.optimizer, args.learning_rate, steps, args.weight_decay)
    seen = None
    if view is not None:
        about = (seed, None) if labels is None else (labels.about["seed"], labels.about["views"])
        seen = views_of(view, per_epoch, *about)
    step = step_of(objective, recipe, optimizer, every, seen)
    start = init_state(variables, recipe, optimizer, objective.init(jax.random.key(seed + 1)))
    some = data.Split(dataset.test.images[: args.record_test], dataset.test.labels[: args.record_test])
    shown = jax.jit(lambda state: {"params": recipe.apply(state.params, state.compressor), **state.stats})

    def scored(state: Any) -> dict[str, float]:
        return {"test_accuracy": score(model, shown(state), some)["accuracy"]} if len(some) else {}

    phase = Phase(name, steps, every, size, seed, 0, False)
    beside: dict[str, Any] = {} if labels is None else {"beside": labels.beside(per_epoch)}
    state, _ = fit(phase, step, start, frozen or {}, dataset, data_parallel("jit"), args.workdir, scored, **beside)
    return jax.device_get(shown(state))


def read_teacher(dataset: data.Dataset, args: argparse.Namespace) -> Published:
    """The teacher: of ``--weights``, or trained, or read if an earlier run has trained it."""
    if args.weights is not None:
        return Published.read(args.weights, dataset)
    path = args.workdir / "teacher.jcz"
    module, moments = models.create(args.teacher, dataset.classes), dataset.moments()
    model = network(module, *moments)
    whole = Published(model, {}, dataset, args.teacher, {}, *moments)
    if not path.exists():
        fresh = jax.jit(model.init)(jax.random.key(args.teacher_seed), dataset.train.images[:1])
        objective, view = on_outputs(model, hard_loss), views.read(args.augment, dataset, "--augment")
        how = ("teacher", args.teacher_epochs or args.epochs, model, fresh, objective, dataset, view)
        jc.pack.save(path, train(args, *how, seed=args.teacher_seed), metadata=whole.about)
        shutil.rmtree(args.workdir / "checkpoints" / "teacher", ignore_errors=True)
    return Published.read(path, dataset)


def cut(args: argparse.Namespace, whole: Published) -> shrink.Cut:
    """A network of fewer channels, cut as ``train.shrink`` cuts and recalibrated; kept in the run folder."""
    given = {"--weights": "", "--macs": args.macs, "--workdir": args.workdir, "--batch_size": args.batch_size}
    how = shrink.parse([str(word) for pair in given.items() for word in pair])
    found = jc.trace.groups(whole.model.infer, whole.variables, whole.dataset.test.images[:1])
    return shrink.cut(whole, found, how, lambda name, one: None)


def prepare(dataset: data.Dataset, args: argparse.Namespace) -> Job:
    """Teacher, student, and what of them is compared."""
    view = views.read(args.augment, dataset, "--augment")
    teacher = read_teacher(dataset, args)
    student = students.create(teacher, args, functools.partial(cut, args))
    if args.views:
        folder = Path(mirror.copied(args.labels)) if args.labels else args.workdir / "labels"
        return Job(args, teacher, student, {}, answers(teacher, args, folder), view)
    some: Any = data.pad({"image": dataset.train.images[:2], "label": dataset.train.labels[:2]}, 1)
    start = jax.eval_shape(student.start, 0) if args.start is None else student.start(0)
    pairs = " ".join(args.taps)
    taps = distillation.find_taps(teacher.model, teacher.variables, student.model, start, some, pairs)
    return Job(args, teacher, student, taps, None, view)


def measured(job: Job, name: str, objective: Objective, seed: int) -> dict[str, float]:
    """The row of a student."""
    began, student, phase = time.monotonic(), job.student, f"{name.replace(' ', '_')}-{seed}"
    found = train(
        job.args,
        phase,
        job.args.epochs,
        student.model,
        student.start(seed),
        objective,
        job.teacher.dataset,
        job.view,
        seed=seed,
        recipe=student.recipe,
        frozen={} if job.labels else job.teacher.variables,
        labels=job.labels,
    )
    about, path = student.about, job.args.workdir / f"{phase}.jcz"
    if about is None:
        jc.rewrite.save(path, student.model.infer, found, metadata=job.teacher.about)
    else:
        jc.pack.save(path, found, metadata=about)
    accuracy = score(student.model, found, job.teacher.dataset.test)["accuracy"]
    shutil.rmtree(job.args.workdir / "checkpoints" / phase, ignore_errors=True)
    return {"accuracy": accuracy, "seconds": time.monotonic() - began}


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Trains every student that is not known yet; returns the table.

    Raises:
      UserError: for options out of range, or a loss that is not finite.
    """
    check(args)
    students.check(args)
    reopen(args, *FREE)
    dataset = data.load(args.dataset, args.data_dir).read_all()
    views.read(args.augment, dataset, "--augment")
    claim(args, *FREE)
    table = Table(args.workdir, line)
    table.fact("settings", lambda: fixed(args, *FREE))
    left_out = table.fact("left_out", dict)
    own = prepare(dataset, args)
    table.row(lambda: {"accuracy": own.teacher.accuracy(own.teacher.variables), "seconds": 0.0}, method="teacher")
    if args.start is not None:
        start = own.student.start(0)
        shown = {**start, "params": own.student.recipe.apply(start["params"], own.student.recipe.init(start["params"]))}
        table.row(lambda: {"accuracy": score(own.student.model, shown, dataset.test)["accuracy"]}, method="start")
    for name in args.methods:
        try:
            objective = distillation.taught(
                own.student.model,
                own.teacher.model,
                distillation.named(name),
                own.taps,
                None if own.labels is None else args.k,
            )
            for seed in args.seeds:
                table.row(functools.partial(measured, own, name, objective, seed), method=name, seed=seed)
        except (distillation.NothingToCompareError, jc.errors.ArgumentError) as error:
            left_out[name] = str(error)
            print(f"{name:<16} left out: {error}")
    print(told(table.summary))
    with naming(args.workdir / "methods.png"):
        drawn(table.rows).savefig(args.workdir / "methods.png", dpi=150)
    return table.write()


def check(args: argparse.Namespace) -> None:
    """Refuses options out of range.

    Raises:
      UserError: it names the option.
    """
    for name in POSITIVE:
        if (value := getattr(args, name)) is not None and not value > 0:
            raise UserError(f"--{name} must be above 0, got {value}")
    if args.labels is not None and not args.views:
        raise UserError("--labels needs --views: how many of each image are kept there")
    for name in args.methods:
        distillation.named(name)


def line(row: Mapping[str, Any]) -> str:
    """A row as it is printed."""
    seed = f"seed {row['seed']}" if "seed" in row else ""
    seconds = f"{row['seconds']:>5.0f} s" if row.get("seconds") else ""
    return f"{row['method']:<24} {seed:<7} {row['accuracy']:7.2%}  {seconds}".rstrip()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    known, names = sorted(models.MODELS), ", ".join(distillation.METHODS)
    options.add(parser, weights=None, dataset="digits", data_dir=None, workdir=Path("runs/distil"), batch_size=128)
    add(
        "--teacher",
        default="cnn",
        choices=known,
        metavar="MODEL",
        help="trained first, without --weights: one of %(choices)s",
    )
    add("--teacher_seed", type=int, default=0, help="of its parameters and its order of images")
    add("--teacher_epochs", type=float, help="of its training; without it as many as students")
    add(
        "--student",
        default="lenet300",
        choices=known,
        metavar="MODEL",
        help="learns from it, from fresh parameters; of the same",
    )
    add("--start", metavar="FILE", help="published weights that the student begins with, or 'teacher'")
    add("--zeros", type=float, help="fraction of its kernels' weights that --start is pruned to, the smallest")
    add("--macs", type=float, help="fraction of multiply-accumulates that --start is cut to, in channels")
    add("--methods", nargs="+", default=list(distillation.METHODS), metavar="METHOD", help=f"{names}; 'a + b' adds two")
    add("--taps", nargs="+", default=[], metavar="STUDENT=TEACHER", help="values compared in place of the last ones")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the students")
    add("--epochs", type=float, default=30, help="of students")
    add("--optimizer", default="adamw", choices=("adamw", "sgd"), help="of teacher and students")
    options.add(parser, learning_rate=2e-3, weight_decay=1e-2, augment="", views=0, k=5, view_seed=0)
    add("--labels", help="folder of train.labels, or gs://bucket/it; without it --views are kept in the run folder")
    options.add(parser, record_every=1000, record_test=0)
    parser.epilog = HOW_TO_EXPORT
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json``, ``methods.png``, and every network."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
