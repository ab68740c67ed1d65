"""Phases as a configuration has them: network, recipe, optimizer, batches."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train import models
from train.common import data, optimizers, views
from train.common.errors import UserError, first_line
from train.common.loop import Phase
from train.common.step import Functions, network


def make_recipe(config: ConfigDict, steps: int) -> jc.Compressor:
    """The recipe of the student's kernels: magnitude pruning on a cubic schedule, then integers per channel.

    Args:
      config: the job's configuration.
      steps: the student's training steps.

    Returns:
      The recipe, a value made of views.
    """
    student = config.student
    # The ranking is renewed every n steps, so the schedule ends on a multiple of n: none of it is missed.
    rises = int(steps * student.prune_until) // student.prune_every * student.prune_every
    sparsity = optax.polynomial_schedule(0.0, student.sparsity, 3, rises) if rises else student.sparsity
    prune = jc.every(student.prune_every, jc.prune.magnitude(sparsity, scope=student.scope))
    return jc.partition([(r"(.*/)?kernel", jc.chain(prune, jc.quant.fake(student.bits, axis=-1)))])


def make_network(
    config: ConfigDict, name: str, dataset: data.Dataset, axis: str | None = None, training: bool = False
) -> Functions:
    """The model of a phase; its batch norm, if any, takes its statistics over ``axis`` too.

    Args:
      config: the job's configuration.
      name: of the phase.
      dataset: what is learned.
      axis: of pmap.
      training: whether it computes in the precision of training, or in float32, as it is scored.

    Raises:
      UserError: for an unknown model or option, for options with which it takes no such images, or for one that does
        not answer what the task asks.
    """
    fields = config[name]
    options = fields.options.to_dict()
    half = jnp.bfloat16 if training and config.precision == "bfloat16" else None
    model = network(models.create(fields.model, dataset.classes, options, axis_name=axis), *dataset.moments(), half)
    images = dataset.train.images[:1]
    size = "x".join(map(str, images.shape[1:]))
    refusal = f"{name} model {fields.model!r} with options {options} takes no {size} images: "
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        outputs = jax.eval_shape(model.infer, shapes, images)
    except Exception as error:  # Flax has many words for what does not fit; the first line says it
        raise UserError(refusal + first_line(error)) from error
    empty = [f"{path} would be of shape {leaf.shape}" for path, leaf in named_leaves(shapes).items() if not leaf.size]
    if empty:  # newer Flax says nothing
        raise UserError(refusal + empty[0])
    try:
        dataset.task.outputs(outputs, images.shape, dataset.classes)
    except ValueError as error:
        raise UserError(f"{name} model {fields.model!r} with options {options} does not serve: {error}") from error
    return model


def parameters(model: Functions, dataset: data.Dataset) -> int:
    """How many numbers a model learns."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), dataset.train.images[:1])
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def per_epoch(config: ConfigDict, dataset: data.Dataset) -> int:
    """Steps in which the training images are seen once."""
    return len(dataset.train) // min(config.batch_size, len(dataset.train))


def make_phase(config: ConfigDict, name: str, dataset: data.Dataset, stage: Any = None, number: int = 0) -> Phase:
    """The steps, the records and the batches of a phase, from epochs.

    Args:
      config: the job's configuration.
      name: ``"teacher"`` or ``"student"``.
      dataset: what is learned.
      stage: of the student's; None: as its fields say.
      number: which stage.
    """
    fields = config[name] if stage is None else stage
    batch_size, each = min(config.batch_size, len(dataset.train)), per_epoch(config, dataset)
    steps = max(1, round(fields.epochs * each))
    # the phases see different orders of the images
    seed = 2 * config.seed + (name == "student") + 2**20 * number
    every = max(1, round(config.record_every * each))
    rate = f"--config.{name}.learning_rate"
    known = name if stage is None else stage.name
    whole = dataset.task.whole  # else boxes and masks move with the images, as views
    moved = whole * config.shift, whole and config.flip
    best = steps if config.best_from == 1 else int(config.best_from * steps)
    repeats = config.student.repeats if name == "student" else 1
    how = {"learning_rate": fields.learning_rate, "score_every": config.evaluate_every, "best_from": best}
    return Phase(known, steps, every, batch_size, seed, *moved, rate, parts=config.accumulate, repeats=repeats, **how)


def make_phases(config: ConfigDict, dataset: data.Dataset, stages: Sequence[Any]) -> list[Phase]:
    """The teacher's phase, and that of each of the student's stages.

    Raises:
      UserError: for one whose optimizer cannot be made.
    """
    found = [make_phase(config, "teacher", dataset)]
    found += [make_phase(config, "student", dataset, stage, number) for number, stage in enumerate(stages)]
    for phase in found:
        make_optimizer(config, phase, per_epoch(config, dataset))
    return found


def make_optimizer(
    config: ConfigDict, phase: Phase, per_epoch: int, rounded: bool = False
) -> optax.GradientTransformation:
    """The optimizer of a phase; step sizes of a network that is rounded do not decay."""
    undecayed = config.undecayed
    if rounded:
        undecayed = "steps/.*" + (f"|weights/({undecayed})" if undecayed else "")
    return optimizers.make(
        config.optimizer,
        phase.learning_rate,
        phase.steps,
        config.weight_decay,
        warmup=min(round(config.warmup * per_epoch), phase.steps - 1),
        options=config.optimizer_options.to_dict(),
        clip=config.clip,
        undecayed=undecayed,
    )


def make_views(config: ConfigDict, dataset: data.Dataset) -> jc.augment.Augmentation | None:
    """The augmentation of training images and their labels in the step."""
    moved = config.augment if dataset.task.whole else views.moves(config.augment, config.shift, config.flip)
    return views.read(moved, dataset)


def some_batches(dataset: data.Dataset, config: ConfigDict, count: int = 8) -> list[Any]:
    """The first training batches, as they are, by which channels are ranked and ranges found.

    One device computes them, so that they are no larger than those that are scored.
    """
    height, width = dataset.train.images[:1].shape[1:3]
    size = max(1, min(config.batch_size, len(dataset.train), data.EVAL_PIXELS // (height * width)))
    batches = (data.train_batch(dataset.train, n, size, config.seed, shift=0, flip=False) for n in range(count))
    return [data.pad({name: batch[name] for name in ("image", "label")}, 1) for batch in batches]


def inherit(variables: Any, teacher: Any) -> Any:
    """The teacher's variables, if the student has the same ones.

    Raises:
      UserError: if it has not.
    """
    shapes = jax.tree.map(np.shape, variables), jax.tree.map(np.shape, teacher)
    if shapes[0] != shapes[1]:
        raise UserError(
            "the student cannot start from the teacher's weights, its parameters differ: "
            "give both one model and options, or set --config.student.from_teacher=False"
        )
    return teacher
