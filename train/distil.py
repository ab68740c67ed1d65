"""Compares ways to distil: one teacher, one student, every method and seed, and what each gains over labels alone.

    python -m train.distil [--teacher cnn --student lenet300] [--dataset mnist] [--methods dkd hint] [--seeds 0 1 2]

The teacher is trained once. Losses on features read them out of the networks as they are (jc.trace.tap). Methods that
compare feature maps are left out, with a word, where a network has none. Nothing is chosen by the test accuracy. Every
student is written when it is known, and a run that was stopped goes on with the next.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcomp as jc
from jaxcomp.core.files import naming
from jaxcomp.measure import canvas
from train import models
from train.common import data, options
from train.common.distillation import METHODS, Method, where
from train.common.errors import UserError, exit_status
from train.common.published import claim, fixed
from train.common.scoring import score
from train.common.step import Functions, Variables, classifier
from train.common.table import Table

Loss = Callable[[Variables, Any], tuple[jax.Array, Any]]
FREE = ("methods", "seeds")  # what may change from one run in a folder to the next


class Pair(NamedTuple):
    """A teacher and a student.

    Attributes:
      teacher, student: their functions.
      taught: the teacher's variables.
      reads: ``{"features", "map"}`` of both, as far as both have them: the names of the taps, teacher's and student's.
    """

    teacher: Functions
    taught: Variables
    student: Functions
    reads: dict[str, tuple[str, str]]


class Learnt(NamedTuple):
    """Training images on the device, ``[n, height, width, channels]`` uint8, and labels ``[n]``."""

    images: jax.Array
    labels: jax.Array


def train(
    model: Functions,
    variables: Variables,
    loss: Callable[..., Any],
    learnt: Learnt,
    args: argparse.Namespace,
    seed: int,
) -> Variables:
    """Trains on one device, an epoch a program: AdamW, a cosine to 0.

    Args:
      model: a classifier.
      variables: where it begins; ``"loss"`` beside ``"params"`` holds what the loss learns.
      loss: ``(variables, batch) -> (scalar, new statistics)``.
      learnt: the images.
      args: epochs, batch size, learning rate and weight decay.
      seed: of the order of images.

    Returns:
      The variables at the end.
    """
    count, size = len(learnt.labels), min(args.batch_size, len(learnt.labels))
    steps = count // size
    rate = optax.cosine_decay_schedule(args.learning_rate, args.epochs * steps)
    tx = optax.adamw(rate, weight_decay=args.weight_decay, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))
    trained = {name: variables[name] for name in ("params", "loss") if name in variables}
    stats = {name: tree for name, tree in variables.items() if name not in trained}

    def step(carry: Any, chosen: jax.Array) -> tuple[Any, jax.Array]:
        trained, stats, opt_state = carry
        batch = {"image": learnt.images[chosen], "label": learnt.labels[chosen], "valid": jnp.ones(size, bool)}
        objective = lambda trained: loss({**trained, **stats}, batch)  # noqa: E731
        (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, opt_state, trained)
        return (optax.apply_updates(trained, updates), stats, opt_state), value

    epoch = jax.jit(lambda carry, order: jax.lax.scan(step, carry, order), donate_argnums=0)
    carry = jax.tree.map(jnp.array, (trained, stats, tx.init(trained)))
    rng = np.random.default_rng(seed)
    for _ in range(args.epochs):
        order = rng.permutation(count)[: steps * size].reshape(steps, size).astype(np.int32)
        carry, losses = epoch(carry, order)
        if not np.isfinite(losses[-1]):
            raise UserError("the loss is not finite: give a lower --learning_rate")
    return jax.device_get({"params": carry[0]["params"], **carry[1]})


def by_labels(model: Functions, variables: Variables, batch: Any) -> tuple[jax.Array, Any]:
    """The teacher's loss."""
    logits, stats = model.learn(variables, batch)
    return jnp.mean(jc.distill.cross_entropy(logits, batch["label"])), stats


def reader(
    function: Callable[..., Any], variables: Variables, given: Any, name: str | None
) -> Callable[[Variables, Any], tuple[Any, Any]]:
    """``(variables, given) -> (results, the value of that name)``, None without a name."""
    if name is None:
        return lambda variables, given: (function(variables, given), None)
    tapped = jc.trace.tap(function, variables, given, at={"read": name})

    def read(variables: Variables, given: Any) -> tuple[Any, Any]:
        results, values = tapped(variables, given)
        return results, values["read"]

    return read


def distilled(pair: Pair, method: Method, learnt: Learnt, args: argparse.Namespace, seed: int) -> Variables:
    """The student that a method makes of fresh parameters."""
    some = {"image": learnt.images[:2], "label": learnt.labels[:2], "valid": jnp.ones(2, bool)}
    fresh = pair.student.init(jax.random.key(seed), some["image"])
    theirs, ours = pair.reads.get(method.reads, (None, None))
    teacher = reader(pair.teacher.infer, pair.taught, some["image"], theirs)
    student = reader(pair.student.learn, fresh, some, ours)
    (logits, _), mine = jax.eval_shape(student, fresh, some)
    soft, shown = jax.eval_shape(teacher, pair.taught, some["image"])
    init, term = method.make(*((mine.shape, shown.shape) if theirs else (logits.shape, soft.shape)))

    def loss(variables: Variables, batch: Any) -> tuple[jax.Array, Any]:
        own = {name: tree for name, tree in variables.items() if name != "loss"}
        (logits, stats), mine = student(own, batch)
        soft, shown = teacher(pair.taught, batch["image"])
        compared = (mine, shown) if theirs else (logits, soft)
        hard = jnp.mean(jc.distill.cross_entropy(logits, batch["label"]))
        return method.hard * hard + method.soft * term(variables["loss"], *compared, batch["label"]), stats

    return train(pair.student, {**fresh, "loss": init(jax.random.key(seed + 1))}, loss, learnt, args, seed)


def paired(dataset: data.Dataset, learnt: Learnt, args: argparse.Namespace) -> Pair:
    """The two networks; the teacher is trained, or read if an earlier run has trained it."""
    teacher, student = (
        classifier(models.create(name, dataset.classes), *dataset.moments()) for name in (args.teacher, args.student)
    )
    path = args.workdir / "teacher.jcz"
    if not path.exists():
        fresh = teacher.init(jax.random.key(args.teacher_seed), learnt.images[:2])
        taught = train(teacher, fresh, functools.partial(by_labels, teacher), learnt, args, args.teacher_seed)
        jc.pack.save(path, taught)
    taught, _ = jc.pack.load(path)
    images = learnt.images[:2]
    seen = where(teacher.infer, taught, images), where(student.infer, student.init(jax.random.key(0), images), images)
    reads = {name: (seen[0][name], seen[1][name]) for name in seen[0] if name in seen[1]}
    return Pair(teacher, taught, student, reads)


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Trains every student that is not known yet; returns the table.

    Raises:
      UserError: for options out of range, or a loss that is not finite.
    """
    for name, value in (
        ("epochs", args.epochs),
        ("batch_size", args.batch_size),
        ("learning_rate", args.learning_rate),
    ):
        if not value > 0:
            raise UserError(f"--{name} must be above 0, got {value}")
    claim(args, *FREE)
    table = Table(args.workdir, line)
    table.fact("settings", lambda: fixed(args, *FREE))
    dataset = data.load(args.dataset, args.data_dir).read_all()
    learnt = Learnt(jnp.asarray(dataset.train.images[:]), jnp.asarray(dataset.train.labels))
    pair = paired(dataset, learnt, args)
    table.row(
        lambda: {"accuracy": score(pair.teacher, pair.taught, dataset.test)["accuracy"], "seconds": 0.0},
        method="teacher",
        seed=args.teacher_seed,
    )

    def measured(method: Method, seed: int) -> dict[str, float]:
        began = time.monotonic()
        student = distilled(pair, method, learnt, args, seed)
        accuracy = score(pair.student, student, dataset.test)["accuracy"]
        return {"accuracy": accuracy, "seconds": time.monotonic() - began}

    for name in args.methods:
        if METHODS[name].reads not in {"logits", *pair.reads}:
            print(f"{name:<16} left out: it compares feature maps, and one of the networks has none")
            continue
        try:
            for seed in args.seeds:
                table.row(functools.partial(measured, METHODS[name], seed), method=name, seed=seed)
        except jc.errors.ArgumentError as error:  # nothing joins the two networks' values
            print(f"{name:<16} left out: {error}")
    if means(table.rows):
        print(told(table.rows))
        with naming(args.workdir / "methods.png"):
            drawn(table.rows).savefig(args.workdir / "methods.png", dpi=150)
    return table.write()


def line(row: Mapping[str, Any]) -> str:
    """A student's row as it is printed."""
    return f"{row['method']:<16} seed {row['seed']}  {row['accuracy']:7.2%}  {row['seconds']:>5.0f} s"


def means(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, int]]:
    """``{method: (mean accuracy, deviation, seeds)}`` of the students, the best first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] != "teacher":
            found.setdefault(row["method"], []).append(row["accuracy"])
    summed = {
        name: (statistics.mean(own), statistics.stdev(own) if len(own) > 1 else 0.0, len(own))
        for name, own in found.items()
    }
    return dict(sorted(summed.items(), key=lambda item: -item[1][0]))


def told(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: mean and deviation over seeds, and what each method gains over labels alone, in points.

    Example:
      >>> print(told([{"method": "alone", "accuracy": 0.9}, {"method": "dkd", "accuracy": 0.92}]))
      | method | seeds | accuracy, % | gain, points |
      | --- | ---: | ---: | ---: |
      | dkd | 1 | 92.00 ± 0.00 | +2.00 |
      | alone | 1 | 90.00 ± 0.00 |  |
    """
    found = means(rows)
    lines = ["| method | seeds | accuracy, % | gain, points |", "| --- | ---: | ---: | ---: |"]
    for name, (mean, spread, seeds) in found.items():
        gain = f"{100 * (mean - found['alone'][0]):+.2f}" if "alone" in found and name != "alone" else ""
        lines.append(f"| {name} | {seeds} | {100 * mean:.2f} ± {100 * spread:.2f} | {gain} |")
    return "\n".join(lines)


def drawn(rows: list[dict[str, Any]], *, width: float = canvas.PAGE / 2) -> Any:
    """The methods' accuracies, a point each and its deviation, beside the student alone."""
    found = means(rows)
    drawing = canvas.blank(width, 0.9 + 0.28 * len(found))
    axes = drawing.add_subplot()
    for place, (name, (mean, spread, _)) in enumerate(reversed(found.items())):
        color = canvas.GREY if name == "alone" else canvas.BLUE
        axes.errorbar(100 * mean, place, xerr=100 * spread, fmt="o", color=color, capsize=3)
    if "alone" in found:
        axes.axvline(100 * found["alone"][0], color=canvas.GREY, linewidth=1, zorder=0)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    canvas.style(axes, "test accuracy, %")
    return drawing


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__)
    add = parser.add_argument
    known = sorted(models.MODELS)
    options.add(parser, dataset="digits", data_dir=None, workdir=Path("runs/distil"), batch_size=128)
    add("--teacher", default="cnn", choices=known, help="model that is trained first")
    add("--student", default="lenet300", choices=known, help="model that learns from it")
    add("--teacher_seed", type=int, default=0, help="of its parameters and its order of images")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the students")
    add("--epochs", type=int, default=30, help="of teacher and students")
    options.add(parser, learning_rate=2e-3, weight_decay=1e-2)
    return parser.parse_args(argv)


def main() -> int:
    """Runs the job of the command line; writes ``summary.json`` and ``methods.png``."""
    args = parse()
    return exit_status(lambda: job(args))


if __name__ == "__main__":
    sys.exit(main())
